// SPDX-License-Identifier: Apache-2.0
// Numbers in few columns: 12.3M, 3h12m. For tables that are watched; elsewhere numbers are exact (Answers/Units.swift).

import Answers

package enum ShortNumbers {
  private static let names = ["K", "M", "G", "T", "P", "E"]

  /// Bytes, by powers of 1024: `9999`, `12.3K`, `1023M`.
  package static func bytes(_ value: Double) -> String { scaled(value, 1024) }

  /// A count, by powers of 1000.
  package static func count(_ value: Double) -> String { scaled(value, 1000) }

  /// With the sign: `+12.3K`; `0`.
  package static func change(_ value: Double) -> String {
    value == 0 ? "0" : (value > 0 ? "+" : "-") + bytes(value.magnitude)
  }

  /// Bytes allocated a second: `12.3K/s`.
  package static func flow(_ value: Double) -> String { value < 0.5 ? "0" : bytes(value) + "/s" }

  /// `850ns`, `12us`, `37ms`, `59s`, `12m`.
  package static func life(_ seconds: Double) -> String {
    if seconds >= 1 { return duration(seconds) }
    // bounded: what is converted is less than 10^4
    let nanoseconds = max(0, seconds) * 1e9
    if nanoseconds < 999.5 { return "\(Int(nanoseconds.rounded()))ns" }
    if nanoseconds < 999_500 { return "\(Int((nanoseconds / 1e3).rounded()))us" }
    return "\(Int(min(999, (nanoseconds / 1e6).rounded())))ms"
  }

  /// Bytes a second more.
  package static func rate(_ value: Double) -> String {
    value.magnitude < 0.5 ? "0" : change(value.rounded()) + "/s"
  }

  /// The whole part of a number, from 0 to 10^18.
  package static func whole(_ value: Double) -> UInt64 {
    value > 0 ? UInt64(min(value, 1e18)) : 0  // bounded: 10^18 is less than 2^60
  }

  private static func scaled(_ value: Double, _ base: Double) -> String {
    guard value.isFinite, value > 0 else { return "0" }
    // bounded: what is converted is less than 10^4; units are those that have names
    if value < 9999.5 { return "\(Int(value.rounded()))" }
    var value = value
    var unit = -1
    repeat {
      value /= base
      unit += 1
    } while value >= base - 0.5 && unit + 1 < names.count
    let digits = value < 99.95 ? Units.tenths(value) : "\(Int(min(value, 9999).rounded()))"
    return digits + names[unit]
  }

  /// `59s`, `12m`, `3h12m`, `12d`.
  package static func duration(_ seconds: Double) -> String {
    let whole = Int(max(0, min(seconds.isFinite ? seconds : 1e12, 1e12)))  // bounded: by the line itself
    if whole < 100 { return "\(whole)s" }
    if whole < 6000 { return "\(whole / 60)m" }
    if whole < 48 * 3600 { return "\(whole / 3600)h\(whole / 60 % 60)m" }
    return "\(whole / 86_400)d"
  }

  /// `12.3%`
  package static func share(_ part: Double, of whole: Double) -> String {
    guard whole > 0, part > 0 else { return "0%" }
    let percent = min(100, part / whole * 100.0)  // bounded: floating point, above 0
    return percent < 0.05 ? "<0.1%" : "\(Units.tenths(percent))%"
  }
}

/// Numbers of looks as all other answers have them.
enum WatchWords {
  /// `96 B`, `1.0 MiB`.
  static func bytes(_ value: Double) -> String { Units.rounded(ShortNumbers.whole(value.rounded())) }

  /// `+1.0 MiB`, `-96 B`, `0`.
  static func change(_ value: Double) -> String {
    value == 0 ? "0" : (value > 0 ? "+" : "-") + bytes(value.magnitude)
  }

  /// `1,024`; from 100 million on `100M`, as a column must leave room for names.
  static func count(_ value: Double) -> String {
    value < 1e8 ? Units.grouped(ShortNumbers.whole(value.rounded())) : ShortNumbers.count(value)
  }
}
