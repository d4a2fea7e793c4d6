// SPDX-License-Identifier: Apache-2.0

import Measurement
import TestSupport
import Testing

/// A page as the benchmarks write it.
private func page(ofTable date: String, notes: String) -> String {
  """
  # Benchmarks

  ```
  heaptrack 1.4.0, \(date), load before the run 0.07
  ```

  \(notes)

  ## What the rows are

  - **rows**
  """
}

private let notes = """
  ## What to know of this table

  Measured while it rained, as in 2025-01-01.

  - a list
  """

@Suite("Notes on a table of figures", .bounded)
struct HandWrittenTests {
  @Test("what is written by hand is kept, with the date of the table that it is about")
  func keptWithDate() {
    let kept = handWritten(of: page(ofTable: "2026-11-22 20:14 UTC", notes: notes))
    let lines = kept.split(separator: "\n", omittingEmptySubsequences: false)
    #expect(lines.first == "## What to know of this table")
    #expect(lines[2].contains("about the table of 2026-11-22 20:14 UTC"))
    #expect(kept.hasSuffix("\n\nMeasured while it rained, as in 2025-01-01.\n\n- a list"))
  }

  @Test("a text that has outlived several tables keeps the date of the first")
  func keptAgain() {
    let once = handWritten(of: page(ofTable: "2026-11-22 20:14 UTC", notes: notes))
    #expect(handWritten(of: page(ofTable: "2026-12-01 08:00 UTC", notes: once)) == once)
  }

  @Test("a date without a time, and none at all, are told as they are")
  func otherDates() {
    #expect(handWritten(of: page(ofTable: "2026-11-22", notes: notes)).contains("the table of 2026-11-22, which"))
    #expect(handWritten(of: page(ofTable: "today", notes: notes)).contains("the table of an unknown date, which"))
  }

  @Test("a page without a text of its own gives none")
  func nothingWritten() {
    #expect(handWritten(of: "") == "")
    #expect(handWritten(of: page(ofTable: "2026-11-22", notes: "")) == "")
    #expect(handWritten(of: page(ofTable: "2026-11-22", notes: "## What to know of this table\n")) == "")
  }

  @Test("the text may be the last of the page")
  func lastPart() {
    #expect(handWritten(of: "2026-11-22\n" + notes).hasSuffix("- a list"))
  }
}
