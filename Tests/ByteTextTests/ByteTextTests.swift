// SPDX-License-Identifier: Apache-2.0
// Bytes become text and the same bytes again, whatever they are.

import ByteText
import TestSupport
import Testing

@Suite("Bytes as text", .bounded)
struct ByteTextTests {
  private func expectReversible(_ bytes: [UInt8], sourceLocation: SourceLocation = #_sourceLocation) {
    let text = String(reversibly: bytes)
    #expect(text.originalBytes == bytes, sourceLocation: sourceLocation)
    #expect(text.originalPath == bytes.map { CChar(bitPattern: $0) } + [0], sourceLocation: sourceLocation)
  }

  @Test("every byte, every pair of bytes, and every sequence of four that begins as UTF-8 lead back to themselves")
  func all() {
    for first in UInt8.min...UInt8.max {
      expectReversible([first])
      for second in UInt8.min...UInt8.max {
        expectReversible([first, second])
        expectReversible([UInt8(ascii: "a"), first, second, UInt8(ascii: "/")])
      }
    }
    for first in UInt8(0xE0)...0xFF {
      for second in UInt8(0x7F)...0xC0 {
        for third in [0x7F, 0x80, 0x9F, 0xA0, 0xBA, 0xBB, 0xBF, 0xC0] as [UInt8] {
          for last in [0x7F, 0x80, 0xBF, 0xC0] as [UInt8] { expectReversible([first, second, third, last]) }
        }
      }
    }
  }

  @Test("what is UTF-8 is the text that it is")
  func text() {
    for text in ["", "plain", "größe/日本語 🙂", "e\u{301}", "\u{10FFFF}\u{10FE7F}\u{10FF00}", "a\nb\r\nc"] {
      #expect(String(reversibly: Array(text.utf8)).utf8.elementsEqual(text.utf8))
      #expect(text.withBytesEscaped == text)
    }
  }

  @Test("the characters that stand for bytes lead back to themselves where they come in the bytes")
  func standIns() {
    for number in UInt32(0x10FE80)...0x10FEFF {
      let text = String(Unicode.Scalar(number)!)
      expectReversible(Array(text.utf8))
      #expect(String(reversibly: Array(text.utf8)) != text)
    }
  }

  @Test("different bytes become different texts, and texts that say which bytes they are")
  func names() {
    #expect(String(reversibly: [0xE9]) != String(reversibly: [0xEA]))
    #expect(String(reversibly: [0xE9]) != String(reversibly: [0xC3, 0xA9]))
    #expect(String(reversibly: Array("caf".utf8) + [0xE9, 0x2E, 0xC3, 0xA9]).withBytesEscaped == "caf\\xE9.é")
    #expect(String(reversibly: [0xED, 0xA0, 0x80]).withBytesEscaped == "\\xED\\xA0\\x80")
    #expect(String(reversibly: [0xC0, 0x80]).withBytesEscaped == "\\xC0\\x80")
  }

  @Test("bytes that came apart are the same when they are joined")
  func joined() {
    let path = String(reversibly: Array("/tmp/".utf8) + [0xE9]) + "/" + String(reversibly: [0xFF])
    #expect(path.originalBytes == Array("/tmp/".utf8) + [0xE9, 0x2F, 0xFF])
  }
}
