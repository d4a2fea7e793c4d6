// SPDX-License-Identifier: Apache-2.0
// The part of a generated page that people write: it says of one table what no program can know, and has to outlive the
// table without seeming to speak of the next one.

/// The heading under which people write.
public let handWrittenHeading = "## What to know of this table"

/// The hand-written part of `page`, its heading included, for the page that replaces it; empty if it has none.
///
/// A text that was written beside the table of `page` gets a line that says so, with that table's date. A text that has
/// such a line keeps it: it is about an older table still.
public func handWritten(of page: String) -> String {
  let lines = page.split(separator: "\n", omittingEmptySubsequences: false)
  guard let start = lines.firstIndex(where: { $0 == handWrittenHeading }) else { return "" }
  let end = lines[(start + 1)...].firstIndex { $0.hasPrefix("## ") } ?? lines.endIndex
  var text = Array(lines[(start + 1)..<end].drop(while: \.isEmpty))
  while text.last?.isEmpty == true { text.removeLast() }
  guard let first = text.first else { return "" }
  let mark = "_Written about the table of "
  if !first.hasPrefix(mark) {
    let date = lines[..<start].lazy.compactMap(tableDate).first ?? "an unknown date"
    text = ["\(mark)\(date), which an older version of this page has; not about the one above._", ""] + text
  }
  return ([Substring(handWrittenHeading), ""] + text).joined(separator: "\n")
}

/// A date as the page's table has it, "2026-11-22" or "2026-11-22 20:14 UTC".
private func tableDate(in line: Substring) -> String? {
  line.firstMatch(of: /\d{4}-\d{2}-\d{2}(?: \d{2}:\d{2} UTC)?/).map { String($0.output) }
}
