// SPDX-License-Identifier: Apache-2.0
// Durations, sizes and numbers as options of the command line.

import Answers
import ArgumentParser

/// A duration: `90s`, `15m`, `24h`, `7d`, or `forever`.
struct KeepTime: ExpressibleByArgument {
  /// Infinite for `forever`.
  var seconds: Double

  init(seconds: Double) { self.seconds = seconds }

  init?(argument: String) {
    if argument == "forever" {
      self.init(seconds: .infinity)
      return
    }
    guard let seconds = Units.seconds(inTime: argument) else { return nil }
    self.init(seconds: seconds)
  }

  var defaultValueDescription: String {
    seconds.isFinite ? Units.time(seconds) : "forever"
  }
}

/// A number of bytes: `4096`, `512M`, `1G`, or `unlimited`.
struct KeepSize: ExpressibleByArgument {
  /// The greatest value stands for `unlimited`.
  var bytes: UInt64

  init(bytes: UInt64) { self.bytes = bytes }

  init?(argument: String) {
    if argument == "unlimited" {
      self.init(bytes: .max)
      return
    }
    guard let bytes = Units.bytes(inSize: argument) else { return nil }
    self.init(bytes: bytes)
  }

  var defaultValueDescription: String {
    bytes == .max ? "unlimited" : Units.size(bytes)
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
    self.init(number: UInt64(truncatingIfNeeded: number))
  }

  var defaultValueDescription: String { number == .max ? "unlimited" : "\(number)" }
}
