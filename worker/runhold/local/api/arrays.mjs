// PostgreSQL's arrays as text, both ways. postgres.js 3.4.9 reads a null in an array as the string "NULL".

/** `{a,"b,c",NULL,{…}}` as an array, with every element that is not null given to `parse`. */
export function parseArray(text, parse) {
  let at = text.indexOf("{"); // bounds such as [0:2]= may come first
  const array = () => {
    const elements = [];
    at += 1;
    while (text[at] !== "}") {
      if (text[at] === "{") elements.push(array());
      else if (text[at] === '"') elements.push(parse(quoted()));
      else elements.push(bare());
      if (text[at] === ",") at += 1;
    }
    at += 1;
    return elements;
  };
  const quoted = () => {
    let value = "";
    for (at += 1; text[at] !== '"'; at += 1) {
      if (text[at] === "\\") at += 1;
      value += text[at];
    }
    at += 1;
    return value;
  };
  const bare = () => {
    const start = at;
    while (text[at] !== "," && text[at] !== "}") at += 1;
    const value = text.slice(start, at);
    return value === "NULL" ? null : parse(value);
  };
  return array();
}

/** The text of an array, with every element that is not null written by `serialize`. */
export function serializeArray(value, serialize) {
  if (!Array.isArray(value)) return String(value); // already PostgreSQL's text, from a filter such as cs.{a,b}
  const elements = value.map((element) => {
    if (element === null || element === undefined) return "NULL";
    if (Array.isArray(element)) return serializeArray(element, serialize);
    return `"${serialize(element).replace(/["\\]/g, "\\$&")}"`;
  });
  return `{${elements.join(",")}}`;
}
