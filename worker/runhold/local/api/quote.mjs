// Text in SQL. The connections have standard_conforming_strings on, PostgreSQL's default: a backslash is a backslash.

/** An identifier. */
export const quoteName = (name) => `"${name.replaceAll('"', '""')}"`;

/** A string literal. The protocol ends text at a NUL, and neither JSON nor PostgreSQL's text may contain one. */
export function quoteLiteral(text) {
  if (text.includes("\0")) throw new Error("A NUL character cannot be sent to PostgreSQL.");
  return `'${text.replaceAll("'", "''")}'`;
}
