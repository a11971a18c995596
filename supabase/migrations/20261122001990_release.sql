-- Always the last file: describes what this release has made, so that `runhold doctor` finds what a database lacks.

select runhold.store_release();

notify pgrst, 'reload schema';
