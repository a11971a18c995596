// Plans, `Accept: application/vnd.pgrst.plan`: lite answers with the statement, PostgREST with what EXPLAIN says of it.

import { CompiledQuery } from "kysely";

const PLAN = /application\/vnd\.pgrst\.plan(?:\+(json|text))?([^,]*)/;
const OPTIONS = ["analyze", "verbose", "settings", "buffers", "wal"];
const AS_STATEMENT = 'application/vnd.pgrst.plan+json; for="application/json"';

/**
 * Which plan a request wants, `{ format, options }`, or null. Its header is changed to the one at which lite gives the
 * statement together with its parameters.
 */
export function takePlan(headers) {
  const [, format = "text", parameters] = PLAN.exec(headers.accept ?? "") ?? [];
  if (parameters === undefined) return null;
  const wanted = (/options=([\w|]+)/.exec(parameters)?.[1] ?? "").split("|");
  headers.accept = AS_STATEMENT;
  return { format, options: OPTIONS.filter((option) => wanted.includes(option)) };
}

/** Lite's answer to a request for a plan, with the plan of the statement in it. Other answers stay. */
export async function explain(answer, plan, connection) {
  if (!plan || !(answer instanceof Response) || answer.status !== 200) return answer;
  const { sql, parameters } = await answer.json();
  const settings = [`format ${plan.format}`, ...plan.options].join(", ");
  // PostgREST prints the rows as JSON in the same statement, so the plan shows that, too.
  const isReturning = !/^\s*(insert|update|delete)\b/i.test(sql) || /\breturning\b/i.test(sql);
  const printed = isReturning
    ? `with pgrst_source as (${sql}) select count(row), coalesce(json_agg(row), '[]') from pgrst_source as row`
    : sql;
  const { rows } = await connection.executeQuery(CompiledQuery.raw(`explain (${settings}) ${printed}`, parameters));
  const lines = rows.map((row) => row["QUERY PLAN"]);
  const options = plan.options.length ? `; options=${plan.options.join("|")}` : "";
  return new Response(plan.format === "json" ? JSON.stringify(lines[0]) : lines.join("\n"), {
    headers: {
      "content-type": `application/vnd.pgrst.plan+${plan.format}; for="application/json"${options}; charset=utf-8`,
    },
  });
}
