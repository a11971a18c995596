/* The rule of pg-safeupdate, which hosted Supabase loads into every session of the API: an UPDATE or DELETE without
 * WHERE is refused, in functions too. Sessions of other roles than authenticator are left alone.
 *
 * The wheel that PostgreSQL comes in has no header files, so what this library needs of PostgreSQL 17 is declared here
 * (src/include: fmgr.h, nodes/parsenodes.h, nodes/pg_list.h, nodes/primnodes.h, utils/elog.h). PostgreSQL refuses to
 * load the library into another major version. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAJOR_VERSION = 1700, ERROR_LEVEL = 21, UPDATE_COMMAND = 2, DELETE_COMMAND = 4 };

/* MAKE_SQLSTATE('2', '1', '0', '0', '0'): six bits a character */
#define CARDINALITY_VIOLATION (('2' - '0') + (('1' - '0') << 6))

struct magic {
    int length, version, max_arguments, max_index_keys, name_length, float8_by_value;
    char abi[32];
};

struct list {
    int tag, length, max_length;
    void **elements;
};

struct cte {
    int tag;
    char *name;
    struct list *column_names;
    int materialized;
    struct query *query;
};

struct from {
    int tag;
    struct list *items;
    void *condition;
};

struct query {
    int tag, command, source;
    uint64_t id;
    bool can_set_tag;
    void *utility;
    int result_relation;
    bool has_aggregates, has_window_functions, has_target_sets, has_sublinks, has_distinct_on, has_recursive,
        has_modifying_cte, has_for_update, has_row_security, is_return;
    struct list *ctes, *range_table, *permissions;
    struct from *from;
};

typedef void (*analyze_hook)(void *state, struct query *query, void *jumble);

extern analyze_hook post_parse_analyze_hook;
extern bool errstart(int level, const char *domain);
extern int errcode(int code);
extern int errmsg(const char *format, ...);
extern void errfinish(const char *file, int line, const char *function);
extern unsigned GetSessionUserId(void);
extern unsigned get_role_oid(const char *name, bool missing_ok);

static analyze_hook next_hook;

const struct magic *Pg_magic_func(void);
void _PG_init(void);

const struct magic *
Pg_magic_func(void)
{
    static const struct magic data = {sizeof(struct magic), MAJOR_VERSION, 100, 32, 64, 1, "PostgreSQL"};

    return &data;
}

static void
refuse_unconditional(const struct query *query)
{
    if (query->has_modifying_cte)
        for (int i = 0; i < query->ctes->length; i++)
            refuse_unconditional(((struct cte *) query->ctes->elements[i])->query);
    if ((query->command == UPDATE_COMMAND || query->command == DELETE_COMMAND) && query->from->condition == NULL
        && GetSessionUserId() == get_role_oid("authenticator", true) && errstart(ERROR_LEVEL, NULL)) {
        errcode(CARDINALITY_VIOLATION);
        errmsg("%s requires a WHERE clause", query->command == UPDATE_COMMAND ? "UPDATE" : "DELETE");
        errfinish(__FILE__, __LINE__, __func__);
    }
}

static void
check(void *state, struct query *query, void *jumble)
{
    refuse_unconditional(query);
    if (next_hook != NULL)
        next_hook(state, query, jumble);
}

void
_PG_init(void)
{
    next_hook = post_parse_analyze_hook;
    post_parse_analyze_hook = check;
}
