"""What the database says about types and tables."""

from collections.abc import Set
from dataclasses import dataclass

from psycopg import sql

from runhold.local.realtime.database import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class TypeInfo:
    """A column's type.

    `name`: `pg_type.typname`, what clients get. `base_oid`: of the type below all domains. `is_enum`: … of
    that type. `cast`: SQL name with length and scale; `plain_cast`: without.
    """

    name: str
    base_oid: int
    is_enum: bool
    cast: str
    plain_cast: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TableColumn:
    """A column as it is now. `generated`: expression of a stored generated column. `readers`: roles that may
    SELECT.
    """

    name: str
    type_oid: int
    type_modifier: int
    in_primary_key: bool
    generated: str | None
    readers: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table as it is now, its columns in order."""

    has_row_security: bool
    owner: str
    columns: tuple[TableColumn, ...]

    @property
    def primary_key(self) -> list[str]:
        """Names of the key columns, in table order; empty without a primary key."""
        return [column.name for column in self.columns if column.in_primary_key]

    def readable(self, role: str) -> set[str]:
        """Names of the columns `role` may SELECT."""
        return {column.name for column in self.columns if role in column.readers}


async def describe_types(session: Session, types: list[tuple[int, int]]) -> list[TypeInfo | None]:
    """Describe (oid, modifier) pairs, in their order; None = the type is gone. Raises `psycopg.Error`."""
    if not types:
        return []
    rows = await session.run(
        sql.SQL(
            """
            with recursive wanted as (
              select oid, modifier, n
              from unnest({}::oid[], {}::int[]) with ordinality as wanted (oid, modifier, n)
            ), base as (
              select w.n, t.oid, t.typtype, t.typbasetype
              from wanted w join pg_catalog.pg_type t on t.oid = w.oid
              union all
              select b.n, t.oid, t.typtype, t.typbasetype
              from base b join pg_catalog.pg_type t on t.oid = b.typbasetype
              where b.typtype = 'd'
            )
            select w.n, t.typname::text, b.oid::bigint, b.typtype = 'e',
                   format_type(w.oid, w.modifier), format_type(w.oid, -1)
            from wanted w
            join pg_catalog.pg_type t on t.oid = w.oid
            join base b on b.n = w.n and b.typtype <> 'd'
            """
        ).format(
            sql.Literal([oid for oid, _modifier in types]),
            sql.Literal([modifier for _oid, modifier in types]),
        )
    )
    found: list[TypeInfo | None] = [None] * len(types)
    for number, name, base_oid, is_enum, cast, plain_cast in rows[0]:
        found[number - 1] = TypeInfo(
            name=name, base_oid=base_oid, is_enum=is_enum, cast=cast, plain_cast=plain_cast
        )
    return found


async def describe_table(session: Session, oid: int, roles: Set[str]) -> Table | None:
    """Describe a table and what `roles` may read of it; None = dropped meanwhile. Raises `psycopg.Error`."""
    rows = await session.run(
        sql.SQL(
            """
            select c.relrowsecurity, pg_get_userbyid(c.relowner)::text, a.attname::text, a.atttypid::bigint,
                   a.atttypmod, coalesce(a.attnum = any (k.conkey), false),
                   case when a.attgenerated = 's' then pg_get_expr(d.adbin, d.adrelid) end,
                   array(
                     select r.role from unnest({}::text[]) r (role)
                     where case when exists (select from pg_catalog.pg_roles where rolname = r.role)
                                then has_column_privilege(r.role::name, c.oid, a.attnum, 'select') end
                   )
            from pg_catalog.pg_class c
            join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            left join pg_catalog.pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
            left join pg_catalog.pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
            where c.oid = {}
            order by a.attnum
            """
        ).format(sql.Literal(sorted(roles)), sql.Literal(oid))
    )
    if not rows[0]:
        return None
    return Table(
        has_row_security=rows[0][0][0],
        owner=rows[0][0][1],
        columns=tuple(
            TableColumn(
                name=name,
                type_oid=type_oid,
                type_modifier=modifier,
                in_primary_key=in_key,
                generated=generated,
                readers=frozenset(readers),
            )
            for _security, _owner, name, type_oid, modifier, in_key, generated, readers in rows[0]
        ),
    )


async def published_tables(session: Session, publication: str, schema: str, table: str) -> list[int]:
    """Oids of the published tables with these names, `*` = any. Raises `psycopg.Error`."""
    rows = await session.run(
        sql.SQL(
            """
            select c.oid::bigint
            from pg_catalog.pg_publication_tables p
            join pg_catalog.pg_namespace n on n.nspname = p.schemaname
            join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
            where p.pubname = {} and {} in ('*', p.schemaname::text) and {} in ('*', p.tablename::text)
            """
        ).format(sql.Literal(publication), sql.Literal(schema), sql.Literal(table))
    )
    return [row[0] for row in rows[0]]
