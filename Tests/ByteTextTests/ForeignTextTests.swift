// SPDX-License-Identifier: Apache-2.0
// Text from elsewhere is shown by its escapes, whichever way leads to a reader.

import ByteText
import TestSupport
import Testing

@Suite("Foreign text", .bounded)
struct ForeignTextTests {
  /// One of each kind that does more than show itself, with its escape.
  private static let acting: [(String, String)] = [
    ("\u{0}", "\\u{0}"), ("\u{1B}", "\\u{1b}"), ("\u{7}", "\\u{7}"), ("\n", "\\u{a}"), ("\r\n", "\\u{d}\\u{a}"),
    ("\t", "\\u{9}"), ("\u{7F}", "\\u{7f}"), ("\u{9B}", "\\u{9b}"), ("\u{85}", "\\u{85}"), ("\u{AD}", "\\u{ad}"),
    ("\u{200B}", "\\u{200b}"), ("\u{202E}", "\\u{202e}"), ("\u{2066}", "\\u{2066}"), ("\u{2028}", "\\u{2028}"),
    ("\u{2029}", "\\u{2029}"), ("\u{FEFF}", "\\u{feff}"), ("\u{E0041}", "\\u{e0041}"), ("\u{E000}", "\\u{e000}"),
    ("\u{FE0F}", "\\u{fe0f}"), ("\u{3164}", "\\u{3164}"), ("\u{FFFE}", "\\u{fffe}"), ("\u{10FFFF}", "\\u{10ffff}"),
    ("\u{600}", "\\u{600}"),
  ]

  @Test("every kind of character that does more than show itself is escaped, between others and alone")
  func kinds() {
    for (text, escape) in Self.acting {
      #expect(ForeignText("a\(text)b").escaped == "a\(escape)b")
      #expect(ForeignText(text).escaped == escape)
      #expect(!"a\(text)".isInert)
    }
    #expect(ForeignText(reversibly: [0x61, 0x9B, 0xFF, 0xC3]).escaped == "a\\x9B\\xFF\\xC3")
  }

  @Test("no escape has a character that is itself escaped, and all other text stays as it is")
  func others() {
    for value in UInt32(0)..<0x11_0000 {
      guard let scalar = Unicode.Scalar(value) else { continue }
      let text = "a" + String(scalar)
      let escaped = text.escapedAsForeign
      if !escaped.isInert || scalar.originalByte == nil && scalar.isInert != (escaped == text) {
        Issue.record("U+\(String(value, radix: 16))")
      }
    }
    for text in ["", "plain text", "naïve Ünïcödé", "日本語のファイル", "a…b — c → d", "🙂", "e\u{301}"] {
      #expect(ForeignText(text).escaped == text)
    }
  }

  @Test("marks beyond a few, and marks without a letter before them, are escaped")
  func marks() {
    #expect(ForeignText("\u{301}a").escaped == "\\u{301}a")
    let many = "a" + String(repeating: "\u{301}", count: 1000)
    let escaped = ForeignText(many).escaped
    #expect(escaped.isInert && escaped.hasPrefix("a\u{301}\u{301}\u{301}\u{301}\\u{301}"))
    #expect(escaped.unicodeScalars.count { $0 == "\u{301}" } < 5)
  }

  @Test("put together, foreign texts stay as they came in a foreign text, and are escaped in a String")
  func parts() {
    let (directory, name): (ForeignText, ForeignText) = ("/\u{1B}[2J", ForeignText(reversibly: [0x66, 0xFF]))
    let path: ForeignText = "\(directory)/\(name).\(7)"
    #expect(path.originalBytes == Array("/\u{1B}[2J/f".utf8) + [0xFF] + Array(".7".utf8))
    #expect(path.originalPath.last == 0 && path.originalPath.count == path.originalBytes.count + 1)
    #expect(ForeignText("\(directory)/\(name)") == "/\u{1B}[2J/f\u{10FEFF}")
    let shown = "\(directory)/\(name)"
    #expect(shown == "/\\u{1b}[2J/f\\xFF")
    #expect([directory, name].joined(separator: "\n").unescaped == "/\u{1B}[2J\nf\u{10FEFF}")
    #expect("\([directory, name].joined(separator: ", "))" == "/\\u{1b}[2J, f\\xFF")
  }

  @Test("the name of a file is what stands behind the last slash; the whole path if nothing does")
  func fileNames() {
    let names: [(ForeignText, ForeignText)] = [
      ("/usr/lib/a.so", "a.so"), ("a.so", "a.so"), ("/a/", "/a/"), ("/", "/"), ("", ""), ("a/\u{301}b", "\u{301}b"),
    ]
    for (path, name) in names { #expect(path.fileName == name) }
    #expect(ForeignText("/a").isAbsolutePath && !ForeignText("a/").isAbsolutePath && !ForeignText("").isAbsolutePath)
  }

  @Test("texts are compared as they came: the escaped form of a text is another text")
  func comparison() {
    #expect(ForeignText("\u{1B}") != "\\u{1b}" && ForeignText("\u{1B}") == "\u{1B}")
    #expect(ForeignText("\u{1B}") != ForeignText("\\u{1b}"))
    #expect(ForeignText("a\u{1B}b").hasPrefix("a\u{1B}") && !ForeignText("a\u{1B}b").hasSuffix("\\u{1b}b"))
  }

  @Test("interpolation, print, dump, debugging output and a struct around it give the escapes, and nothing else")
  func ways() {
    struct Around { var text: ForeignText }
    for (text, escape) in Self.acting {
      let foreign = ForeignText("<\(text)>")
      var printed = ""
      print(foreign, Around(text: foreign), [foreign], [foreign: 1], Optional(foreign) as Any, to: &printed)
      debugPrint(foreign, Around(text: foreign), to: &printed)
      dump(Around(text: foreign), to: &printed)
      var streamed = ""
      foreign.write(to: &streamed)
      for shown in ["\(foreign)", String(describing: foreign), String(reflecting: foreign), streamed, printed] {
        #expect(shown.contains("<\(escape)>"))
        #expect(shown.split(separator: "\n").allSatisfy { String($0).isInert })
      }
      #expect(foreign.unescaped == "<\(text)>" && ForeignText(reversibly: foreign.originalBytes) == foreign)
    }
  }
}
