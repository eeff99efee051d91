/** Tables as CSV (RFC 4180). */

export function toCsv(lines) {
  return lines.map((cells) => `${cells.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  let text = `${value ?? ""}`;
  // A spreadsheet would run a file name like "=1+1" as a formula (OWASP, CSV injection).
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
