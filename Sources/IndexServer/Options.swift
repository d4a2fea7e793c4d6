// Durations, sizes and numbers as options of the command line.

import ArgumentParser

/// A duration: `90s`, `15m`, `24h`, `7d`, or `forever`.
struct KeepTime: ExpressibleByArgument {
  /// Infinite for `forever`.
  var seconds: Double

  private static let units: [(name: Character, seconds: Double)] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]

  init(seconds: Double) { self.seconds = seconds }

  init?(argument: String) {
    if argument == "forever" {
      self.init(seconds: .infinity)
      return
    }
    guard let unit = Self.units.first(where: { $0.name == argument.last }), let number = UInt32(argument.dropLast())
    else {
      return nil
    }
    self.init(seconds: Double(number) * unit.seconds)
  }

  var defaultValueDescription: String {
    guard seconds.isFinite else { return "forever" }
    let unit = Self.units.first { seconds >= $0.seconds && seconds.truncatingRemainder(dividingBy: $0.seconds) == 0 }
    return unit.map { "\(UInt64(seconds / $0.seconds))\($0.name)" } ?? "0s"
  }
}

/// A number of bytes: `4096`, `512M`, `1G`, or `unlimited`.
struct KeepSize: ExpressibleByArgument {
  /// The greatest value stands for `unlimited`.
  var bytes: UInt64

  private static let units: [(name: Character, shift: UInt64)] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)]

  init(bytes: UInt64) { self.bytes = bytes }

  init?(argument: String) {
    if argument == "unlimited" {
      self.init(bytes: .max)
      return
    }
    let unit = Self.units.first { $0.name == argument.last }
    guard let number = UInt32(unit == nil ? argument[...] : argument.dropLast()) else { return nil }
    // 32 bits shifted by at most 40 would lose high ones: such a size is no limit anyway.
    let bytes = UInt64(number).multipliedReportingOverflow(by: 1 << (unit?.shift ?? 0))
    self.init(bytes: bytes.overflow ? .max : bytes.partialValue)
  }

  var defaultValueDescription: String {
    guard bytes != .max else { return "unlimited" }
    let unit = Self.units.first { bytes >= 1 << $0.shift && bytes & ((1 << $0.shift) - 1) == 0 }
    return unit.map { "\(bytes >> $0.shift)\($0.name)" } ?? "\(bytes)"
  }
}

/// A number, or `unlimited`.
struct KeepCount: ExpressibleByArgument {
  /// The greatest value stands for `unlimited`.
  var number: UInt64

  init(number: UInt64) { self.number = number }

  init?(argument: String) {
    if argument == "unlimited" {
      self.init(number: .max)
      return
    }
    guard let number = UInt32(argument) else { return nil }
    self.init(number: UInt64(number))
  }

  var defaultValueDescription: String { number == .max ? "unlimited" : "\(number)" }
}
