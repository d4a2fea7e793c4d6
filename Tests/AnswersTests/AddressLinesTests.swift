// SPDX-License-Identifier: Apache-2.0
// Lists of addresses that arrive in pieces.

import Answers
import TestSupport
import Testing

@Suite("Lists of addresses", .bounded)
struct AddressLinesTests {
  /// The lines of `text`, fed in pieces that end at `cuts`.
  private func lines(_ text: String, cutAt cuts: [Int] = []) -> [AddressLine] {
    let bytes = Array(text.utf8)
    var lines = AddressLines()
    var result: [AddressLine] = []
    var start = 0
    for end in cuts + [bytes.count] {
      let piece = Array(bytes[start..<end])
      lines.feed(piece.span) { result.append($0) }
      start = end
    }
    lines.finish { result.append($0) }
    return result
  }

  private func addresses(_ values: UInt64...) -> [AddressLine] { values.map { .address($0) } }

  private let mixed = "0x10\n\n  0x11 \r\n18446744073709551615\nfoo\n-5\n0XAbC\n12"

  @Test("one address a line; blank lines and blanks don't matter; the last line needs no end")
  func plain() {
    #expect(lines("0x10\n") == addresses(0x10))
    #expect(lines("0x10") == addresses(0x10))
    #expect(lines("\n\n \r\n0x10\r\n\t7 \n") == addresses(0x10, 7))
    #expect(lines("") == [])
    #expect(lines("0xffffffffffffffff\n0x0\n0\n0x00000000000000000001\n") == addresses(.max, 0, 0, 1))
  }

  @Test("a line that is no address is reported with its number, blank lines counted, and the list goes on")
  func rejected() {
    let result = lines(mixed)
    #expect(result.count == 7)
    #expect(Array(result[..<3]) == addresses(0x10, 0x11, .max))
    #expect(Array(result[5...]) == addresses(0xABC, 12))
    for (index, number) in [(3, 5), (4, 6)] {
      guard case .rejected(let error) = result[index] else {
        Issue.record("\(result[index])")
        continue
      }
      #expect(error.kind == .usage)
      #expect(error.what.hasPrefix("line \(number): "))
    }
  }

  @Test("pieces may end anywhere")
  func everyCut() {
    let whole = lines(mixed)
    let size = mixed.utf8.count
    for first in 0...size {
      #expect(lines(mixed, cutAt: [first]) == whole)
      for second in first...size { #expect(lines(mixed, cutAt: [first, second]) == whole) }
    }
    #expect(lines(mixed, cutAt: Array(0...size)) == whole)
  }

  @Test(
    "a line of up to the limit is read, a longer one is none, whole or in pieces: it is never cut to an address",
    arguments: [255, 256, 257, 258, 300, 100_000])
  func long(size: Int) {
    let text = "0x1\n0x" + String(repeating: "0", count: size - 3) + "5\n0x2\n"
    for cuts in [[], [4], [10, 100], [4 + size - 1]] {
      let result = lines(text, cutAt: cuts)
      #expect(result.count == 3)
      #expect(result.first == .address(1))
      #expect(result.last == .address(2))
      if size <= AddressLines.lineLimit {
        #expect(result[1] == .address(5))
      } else if case .address(let address) = result[1] {
        Issue.record("a line of \(size) bytes was taken for \(address)")
      }
    }
  }

  @Test(
    "the fast way and the one place that reads addresses agree",
    arguments: [
      "0x", "0x1", "0xg", "0x 1", "0x:", "0x/", "0x@", "0x`", "0x1 2", "0xF", "x1", "0x-1", "0x11111111111111111",
    ])
  func sameAsParser(text: String) {
    let expected: UInt64? = try? parseAddress(text)
    switch lines(text).first {
    case .address(let address): #expect(address == expected)
    case .rejected: #expect(expected == nil)
    case nil: Issue.record("no line")
    }
  }
}
