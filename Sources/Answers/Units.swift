// SPDX-License-Identifier: Apache-2.0
// Numbers as people read and write them: counts with their noun, exact bytes with a rounded unit beside them, ages,
// times, sizes with K, M or G.

import Bounds
import SharedLayout

package enum Units {
  // MARK: for reading

  /// Digits in groups of three: 1,234,567.
  package static func grouped(_ value: UInt64) -> String {
    let digits = Array(String(value).utf8)
    var result: [UInt8] = []
    for (index, digit) in digits.enumerated() {
      if index > 0, (digits.count &- index) % 3 == 0 { result.append(UInt8(ascii: ",")) }
      result.append(digit)
    }
    return String(decoding: result, as: UTF8.self)
  }

  /// `1 block`, `2 blocks`.
  package static func count(_ value: UInt64, _ noun: String) -> String {
    "\(grouped(value)) \(noun)\(value == 1 ? "" : "s")"
  }

  /// `1 is`, `2 are`.
  package static func countOf(_ value: UInt64, _ singular: String = "is", _ plural: String = "are") -> String {
    "\(grouped(value)) \(value == 1 ? singular : plural)"
  }

  /// `96 bytes`, `1,048,576 bytes (1.0 MiB)`: exact, and from 10 KiB on also rounded.
  package static func bytes(_ value: UInt64) -> String {
    guard value >= 10 << 10 else { return count(value, "byte") }
    return "\(count(value, "byte")) (\(rounded(value)))"
  }

  /// `96 bytes`, `4.2 MiB`: exact below 1 MiB, rounded from there on, as distances between blocks are told for their
  /// scale.
  package static func distance(_ value: UInt64) -> String {
    value < 1 << 20 ? count(value, "byte") : rounded(value)
  }

  /// `96 B`, `1.0 MiB`: one digit after the point.
  package static func rounded(_ value: UInt64) -> String {
    guard value >= 1024 else { return "\(value) B" }
    let names = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    var unit = 0
    var scaled = Double(value) / 1024
    // A number that would be shown as 1024.0 belongs to the next unit.
    while scaled >= 1023.95, unit &+ 1 < names.count {
      scaled /= 1024
      unit &+= 1
    }
    return "\(tenths(scaled)) \(names[unit])"
  }

  /// One digit after the point, also when it is zero.
  package static func tenths(_ value: Double) -> String {
    let scaled = Foreign<UInt64>(wholePartOf: (max(0, min(value, 9e15)) * 10).rounded()).saturated()
    return "\(grouped(scaled / 10)).\(scaled % 10)"
  }

  /// `37 ms`, `12.4 s`, `3 min 20 s`, `5 h 12 min`, `3 d 4 h`.
  package static func duration(_ seconds: Double) -> String {
    let seconds = seconds > 0 ? min(seconds, 1e15) : 0
    let milliseconds = Foreign<UInt64>(wholePartOf: (seconds * 1000.0).rounded()).saturated()
    if milliseconds < 1000 { return "\(milliseconds) ms" }
    if seconds < 59.95 { return "\(tenths(seconds)) s" }
    let whole = Foreign<UInt64>(wholePartOf: seconds.rounded()).saturated()
    if whole < 3600 { return pair(whole / 60, "min", whole % 60, "s") }
    let minutes = whole / 60
    if minutes < 24 * 60 { return pair(minutes / 60, "h", minutes % 60, "min") }
    return pair(minutes / 60 / 24, "d", minutes / 60 % 24, "h")
  }

  /// `37 ms`, `12 s`, `3 min`, `5 h`, `364 d`: the largest unit alone, for a narrow column.
  package static func roughDuration(_ seconds: Double) -> String {
    if seconds >= 1, seconds < 60 {
      return "\(Foreign<UInt64>(wholePartOf: seconds).saturated()) s"
    }
    return duration(seconds).split(separator: " ").prefix(2).joined(separator: " ")
  }

  private static func pair(_ large: UInt64, _ largeUnit: String, _ small: UInt64, _ smallUnit: String) -> String {
    let first = "\(grouped(large)) \(largeUnit)"
    return small == 0 ? first : "\(first) \(small) \(smallUnit)"
  }

  /// `12.3%`; a share that is not zero is never shown as 0.0%.
  package static func share(_ part: UInt64, of whole: UInt64) -> String {
    guard whole > 0, part > 0 else { return "0.0%" }
    let percent = Double(part) / Double(whole) * 100
    if percent < 0.05 { return "<0.1%" }
    if part < whole, percent >= 99.95 { return ">99.9%" }
    return "\(tenths(percent))%"
  }

  // MARK: as options have them

  /// `4096`, `512K`, `8M`: bytes with the largest unit that leaves no fraction.
  package static func size(_ bytes: UInt64) -> String {
    let units: [(name: String, shift: UInt64)] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)]
    let unit = units.first { bytes != 0 && bytes & ((1 << $0.shift) &- 1) == 0 }
    return unit.map { "\(bytes >> $0.shift)\($0.name)" } ?? "\(bytes)"
  }

  /// Bytes, from digits with or without K, M, G or T, as the settings have them (allocs_settings.h); nil if `text` is
  /// no such number, or stands for 2^64 - 1 bytes or more.
  package static func bytes(inSize text: some StringProtocol) -> UInt64? {
    var bytes: UInt64 = 0
    guard !text.utf8.contains(0), allocs_read_number(String(text), true, &bytes), bytes != .max else { return nil }
    return bytes
  }

  /// A range of bytes, from a size, or from two sizes with a `-` between them, of which the second may be missing; nil
  /// if `text` is no such range.
  package static func sizes(inRange text: String) -> ClosedRange<UInt64>? {
    let parts = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
    guard let first = parts.first, let from = bytes(inSize: first) else { return nil }
    guard parts.count == 2 else { return from...max(from, from) }
    guard !parts[1].isEmpty else { return from...UInt64.max }
    guard let to = bytes(inSize: parts[1]), to >= from else { return nil }
    return from...max(from, to)
  }

  private static let timeUnits: [(name: String, seconds: Double)] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]

  /// Seconds, from a number with or without ms, s, m, h or d; nil if `text` is no such number, or stands for 10^10
  /// seconds or more.
  package static func seconds(inTime text: String) -> Double? {
    // "ms" ends as "s" does.
    let units = [("ms", 0.001)] + timeUnits + [("", 1)]
    guard let unit = units.first(where: { text.hasSuffix($0.0) }),
      let number = Double(text.dropLast(unit.0.count)), number >= 0, number * unit.1 < 1e10
    else { return nil }
    return number * unit.1
  }

  /// `90s`, `24h`: seconds with the largest unit that leaves no fraction.
  package static func time(_ seconds: Double) -> String {
    let unit = timeUnits.first { seconds >= $0.seconds && seconds.truncatingRemainder(dividingBy: $0.seconds) == 0 }
    // bounded: seconds in floating point
    let count = unit.map { Foreign<UInt64>(wholePartOf: seconds / $0.seconds).saturated() } ?? 0
    return "\(count)\(unit?.name ?? "s")"
  }
}
