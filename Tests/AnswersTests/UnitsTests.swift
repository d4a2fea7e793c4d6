// SPDX-License-Identifier: Apache-2.0
// Numbers and lines as people read them.

import TestSupport
import Testing

@testable import Answers

@Suite("Units", .bounded)
struct UnitsTests {
  @Test("counts have their noun in the right number")
  func counts() {
    #expect(Units.count(0, "byte") == "0 bytes")
    #expect(Units.count(1, "byte") == "1 byte")
    #expect(Units.count(2, "block") == "2 blocks")
    #expect(Units.count(1_234_567, "byte") == "1,234,567 bytes")
    #expect(Units.grouped(999) == "999" && Units.grouped(1000) == "1,000")
    #expect(Units.grouped(.max) == "18,446,744,073,709,551,615")
  }

  @Test("bytes are exact, and rounded beside that where they are many")
  func bytes() {
    #expect(Units.bytes(10_239) == "10,239 bytes")
    #expect(Units.bytes(10_240) == "10,240 bytes (10.0 KiB)")
    #expect(Units.bytes(1 << 20) == "1,048,576 bytes (1.0 MiB)")
    #expect(Units.rounded(1023) == "1023 B")
    #expect(Units.rounded((1 << 20) - 1) == "1.0 MiB")
    #expect(Units.rounded(1 << 40) == "1.0 TiB")
    #expect(Units.rounded(.max) == "16.0 EiB")
    #expect(Units.distance(0) == "0 bytes" && Units.distance(5 << 30) == "5.0 GiB")
  }

  @Test(
    "ages have two units at most",
    arguments: [
      (0, "0 ms"), (0.0149, "15 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (12.44, "12.4 s"), (59.94, "59.9 s"),
      (59.96, "1 min"), (200, "3 min 20 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h"), (18_720, "5 h 12 min"),
      (86_400, "1 d"), (273_600, "3 d 4 h"), (-5, "0 ms"), (Double.nan, "0 ms"),
    ])
  func ages(seconds: Double, text: String) { #expect(Units.duration(seconds) == text) }

  @Test(
    "sizes are read with K, M, G or T, in either case, and written with the largest that leaves no fraction",
    arguments: [(0, "0"), (1, "1"), (1023, "1023"), (1 << 10, "1K"), (1536, "1536"), (8 << 20, "8M"), (3 << 40, "3T")])
  func sizes(bytes: UInt64, text: String) {
    #expect(Units.size(bytes) == text && Units.bytes(inSize: text) == bytes)
    #expect(Units.bytes(inSize: text.lowercased()) == bytes)
  }

  @Test(
    "what is no size, or more than 64 bits hold, is none",
    arguments: ["", "K", "-1", "1.5M", "4 K", "1P", "99999999T", "4\0"])
  func noSize(text: String) { #expect(Units.bytes(inSize: text) == nil) }

  @Test(
    "times are read with ms, s, m, h or d, and written with the largest that leaves no fraction",
    arguments: [(0, "0s"), (90, "90s"), (900, "15m"), (86_400, "1d"), (90_000, "25h")])
  func times(seconds: Double, text: String) {
    if seconds > 0 { #expect(Units.time(seconds) == text) }
    #expect(Units.seconds(inTime: text) == seconds)
  }

  @Test("a time of more units than there are numbers, and a number without end, are written as the most there is")
  func endlessNumbers() {
    #expect(Units.time(86_400 * 0x1p70) == "18446744073709551615d")
    #expect(Units.time(.infinity) == "0s" && Units.time(.nan) == "0s" && Units.time(-.infinity) == "0s")
    #expect(Units.tenths(.infinity) == "9,000,000,000,000,000.0" && Units.tenths(.nan) == "0.0")
  }

  @Test("a time may have a fraction, thousandths, or no unit; what is no number, or has no end, is none")
  func oddTimes() {
    #expect(Units.seconds(inTime: "2.5") == 2.5 && Units.seconds(inTime: "500ms") == 0.5)
    for text in ["", "s", "-1s", "soon", "1w", "infs", "nan", "1e10", "200000d"] {
      #expect(Units.seconds(inTime: text) == nil, "\(text)")
    }
  }

  @Test("a share is not called nothing, or all, when it is not")
  func shares() {
    #expect(Units.share(1, of: 3) == "33.3%")
    #expect(Units.share(0, of: 3) == "0.0%")
    #expect(Units.share(1, of: 1_000_000) == "<0.1%")
    #expect(Units.share(999_999, of: 1_000_000) == ">99.9%")
    #expect(Units.share(5, of: 5) == "100.0%")
    #expect(Units.share(0, of: 0) == "0.0%")
  }

  @Test("a path that is too long loses directories from its middle, whole ones")
  func paths() {
    #expect(TextLayout.fitPath("/srv/demo/bin/prog", columns: 18) == "/srv/demo/bin/prog")
    #expect(TextLayout.fitPath("/srv/demo/bin/prog", columns: 17) == "/srv/…/bin/prog")
    #expect(TextLayout.fitPath("/srv/demo/bin/prog", columns: 11) == "/srv/…/prog")
    #expect(TextLayout.fitPath("/srv/demo/bin/prog", columns: 10) == nil)
    #expect(TextLayout.fitPath("/srv/a-very-long-name", columns: 12) == nil)
    #expect(TextLayout.fitPath("memfd:a/b/c/d", columns: 8) == nil)
  }

  @Test("long text loses its middle, and is exactly as wide as it may be")
  func cutting() {
    #expect(TextLayout.fit("short", columns: 5) == "short")
    #expect(TextLayout.fit("abcdefghij", columns: 6) == "abc…ij")
    #expect(TextLayout.fit("abcdefghij", columns: 1) == "…")
    #expect(TextLayout.fit("abcdefghij", columns: 0) == "")
    #expect(TextLayout.width(TextLayout.fit(String(repeating: "日本", count: 50), columns: 21)) <= 21)
    let huge = String(repeating: "std::vector<", count: 1_000_000)
    #expect(TextLayout.width(TextLayout.fit(huge, columns: 80)) == 80)
  }

  @Test("what a terminal would act upon is written out")
  func printable() {
    #expect(TextLayout.printable("plain é 日本") == "plain é 日本")
    #expect(TextLayout.printable("a\u{1B}[2Jb\n\u{7F}\u{202E}") == "a\\u{1b}[2Jb\\u{a}\\u{7f}\\u{202e}")
  }
}

@Suite("Byte writer", .bounded)
struct ByteWriterTests {
  private func written(_ body: (inout ByteWriter) -> Void) -> String {
    var writer = ByteWriter(capacity: 1)
    body(&writer)
    return writer.takeString()
  }

  @Test("numbers of each length, and each digit at each place")
  func lengths() {
    var power: UInt64 = 1
    for _ in 0..<20 {
      for value in [power - 1, power, power + 1, power &* 9, ~power] {
        #expect(written { $0.append(decimal: value) } == String(value))
      }
      power = power.multipliedReportingOverflow(by: 10).partialValue
    }
    for place in 0..<16 {
      for digit in 0..<16 as Range<UInt64> {
        let value = digit << UInt64(place * 4) | 0x9A0F
        #expect(written { $0.append(address: value) } == "0x" + String(value, radix: 16))
      }
    }
  }

  @Test("numbers at their limits")
  func numbers() {
    for value: UInt64 in [0, 9, 10, 99, 100, 1_234_567_890, .max - 1, .max] {
      #expect(written { $0.append(decimal: value) } == String(value))
      #expect(written { $0.append(address: value) } == "0x" + String(value, radix: 16))
    }
    for bit in 0..<64 {
      let value: UInt64 = 1 << UInt64(bit)
      #expect(written { $0.append(address: value) } == "0x" + String(value, radix: 16))
      #expect(written { $0.append(address: value - 1) } == "0x" + String(value - 1, radix: 16))
    }
  }

  @Test(
    "fractions",
    arguments: [
      (0, "0"), (0.004, "0"), (0.005, "0.01"), (0.1, "0.1"), (12.4, "12.4"), (12.43, "12.43"), (12.996, "13"),
      (99.999, "100"), (1795378045.37, "1795378045.37"), (-1, "0"), (Double.nan, "0"), (1e300, "9007199254740992"),
      (3.01, "3.01"),
    ])
  func fractions(value: Double, text: String) { #expect(written { $0.append(decimal: value, places: 2) } == text) }

  @Test("any number of digits may be asked for")
  func anyPlaces() {
    #expect(written { $0.append(decimal: 0.5, places: .max) } == "0.5")
    #expect(written { $0.append(decimal: .infinity, places: 20) } == "9007199254740992")
    #expect(written { $0.append(decimal: 1.25, places: .min) } == "1")
  }

  @Test("every character of ASCII and some beyond come back from JSON as they were")
  func strings() throws {
    let all = String(String.UnicodeScalarView((0..<0x80).map { Unicode.Scalar($0)! })) + "é日本\u{1F600}\u{2028}\u{FFFD}"
    #expect(try parseJSON(written { $0.appendJSONString(all) }) == .string(all))
    #expect(written { $0.appendJSONString("a\"b\\c\n\u{1}\u{1F}") } == #""a\"b\\c\n\u0001\u001f""#)
    let invalid = String(decoding: [0x41, 0xFF, 0xC0, 0x80, 0xED, 0xA0, 0x80, 0xF5, 0x42] as [UInt8], as: UTF8.self)
    #expect(try parseJSON(written { $0.appendJSONString(invalid) }).string == invalid)
  }

  @Test("a writer grows, and starts anew after its bytes were taken")
  func growth() {
    var writer = ByteWriter(capacity: 1)
    for _ in 0..<10_000 { writer.append("0123456789") }
    #expect(writer.count == 100_000)
    #expect(writer.take().count == 100_000)
    #expect(writer.count == 0 && writer.take().isEmpty)
    writer.append(bytes: [1, 2, 3])
    writer.append(text: "é")
    #expect(writer.take() == [1, 2, 3, 0xC3, 0xA9])
  }
}
