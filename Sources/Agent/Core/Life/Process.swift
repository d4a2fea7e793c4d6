// SPDX-License-Identifier: Apache-2.0
// Process: what /proc/self tells the agent about its own process.

import AgentMachine
import SharedLayout

enum Process {
  // MARK: reading

  private static func open(_ path: StaticString) -> Int {
    System.open(UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), System.OpenFlags.readOnly)
  }

  /// Up to `capacity` bytes of the file; the number of bytes, or a negated error number.
  static func readFile(_ path: StaticString, _ buffer: UnsafeMutablePointer<UInt8>, _ capacity: Int) -> Int {
    let descriptor = open(path)
    guard descriptor >= 0 else { return descriptor }
    var size = 0
    while size < capacity {
      let count = System.read(descriptor, buffer + size, capacity - size)
      if count <= 0 { break }
      size += count
    }
    System.close(descriptor)
    return size
  }

  /// Calls `body` with the bytes of /proc/self/maps, one after the other, until it returns true or
  /// `mostReads` system calls have been made. `buffer` is for them to be read into.
  @inline(__always)
  private static func forEachByteOfMaps(
    _ buffer: UnsafeMutableBufferPointer<UInt8>, mostReads: Int = .max, _ body: (UInt8) -> Bool
  ) {
    guard let bytes = buffer.baseAddress else { return }
    let descriptor = open("/proc/self/maps")
    guard descriptor >= 0 else { return }
    defer { System.close(descriptor) }
    var reads = 0
    while reads < mostReads {
      reads += 1
      let count = System.read(descriptor, bytes, buffer.count)
      guard count > 0 else { return }
      for index in 0..<count where body(bytes[index]) { return }
    }
  }

  private static func hexadecimalDigit(_ byte: UInt8) -> UInt? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt(byte - UInt8(ascii: "0"))
    case UInt8(ascii: "a")...UInt8(ascii: "f"): UInt(byte - UInt8(ascii: "a")) + 10
    default: nil
    }
  }

  // MARK: /proc/self/stat

  /// When the process started, in clock ticks since boot; a negated error number if that cannot be
  /// read, 0 if the field is missing.
  static var startTime: Int { statistic(22) }
  /// How many threads the process has; a negated error number or 0, as for `startTime`.
  static var threadCount: Int { statistic(20) }

  /// A field of /proc/self/stat, counted from 1 as in proc(5).
  private static func statistic(_ number: Int) -> Int {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 1024) { buffer in
      guard let bytes = buffer.baseAddress else { return 0 }
      let size = readFile("/proc/self/stat", bytes, 1024)
      guard size >= 0 else { return size }
      guard var index = (0..<size).last(where: { bytes[$0] == UInt8(ascii: ")") }) else { return 0 }
      // The name, field 2, may hold any bytes; field 3 follows its last parenthesis.
      var field = 2
      var value = 0
      index += 1
      while index < size {
        let byte = bytes[index]
        if byte == UInt8(ascii: " ") {
          if field == number { return value }
          field += 1
          value = 0
        } else if byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") {
          value = value &* 10 &+ Int(byte - UInt8(ascii: "0"))
        }
        index += 1
      }
      return 0
    }
  }
}

// MARK: time namespaces

extension Process {
  /// The nanoseconds that the process's time namespace adds to CLOCK_MONOTONIC and to the time
  /// since boot; nil if they can't be known. Zeros where the kernel has no time namespaces.
  static var clockOffsets: (monotonic: Int64, boottime: Int64)? {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { buffer -> (monotonic: Int64, boottime: Int64)? in
      guard let bytes = buffer.baseAddress else { return nil }
      let size = readFile("/proc/self/timens_offsets", bytes, 256)
      if size == System.noEntry { return (0, 0) }
      guard size > 0 else { return nil }
      let offsets = clockOffsets(in: bytes, size)
      // The file tells of the time namespace of the process's future children. It is the process's
      // own namespace, unless the process has called unshare(2). (Since Linux 6.1, exec takes the
      // process itself into that namespace.)
      return offsets == (0, 0) || isInTimeNamespaceOfChildren ? offsets : nil
    }
  }

  /// Each line has the clock's name, seconds, which may be negative, and nanoseconds, which are
  /// not.
  private static func clockOffsets(
    in bytes: UnsafeMutablePointer<UInt8>, _ size: Int
  ) -> (monotonic: Int64, boottime: Int64) {
    var offsets: (monotonic: Int64, boottime: Int64) = (0, 0)
    var index = 0
    while index < size {
      let name = bytes[index]
      var numbers: (Int64, Int64) = (0, 0)
      var isNegative = false
      var isFirst = true
      var hasDigits = false
      while index < size, bytes[index] != UInt8(ascii: "\n") {
        let digit = bytes[index] &- UInt8(ascii: "0")
        if digit < 10 {
          if isFirst {
            numbers.0 = numbers.0 &* 10 &+ Int64(digit)
          } else {
            numbers.1 = numbers.1 &* 10 &+ Int64(digit)
          }
          hasDigits = true
        } else {
          if bytes[index] == UInt8(ascii: "-") { isNegative = true }
          if hasDigits { isFirst = false }
        }
        index += 1
      }
      index += 1
      let total = (isNegative ? 0 &- numbers.0 : numbers.0) &* 1_000_000_000 &+ numbers.1
      if name == UInt8(ascii: "m") { offsets.monotonic = total }
      if name == UInt8(ascii: "b") { offsets.boottime = total }
    }
    return offsets
  }

  private static var isInTimeNamespaceOfChildren: Bool {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 128) { buffer in
      guard let own = buffer.baseAddress else { return false }
      let childrens = own + 64
      func read(_ path: StaticString, _ text: UnsafeMutablePointer<UInt8>) -> Int {
        System.readLink(UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), text, 64)
      }
      let size = read("/proc/self/ns/time", own)
      guard size > 0, read("/proc/self/ns/time_for_children", childrens) == size else { return false }
      for index in 0..<size where own[index] != childrens[index] { return false }
      return true
    }
  }
}

// MARK: /proc/self/maps

extension Process {
  /// The lowest address of the mapping that /proc/self/maps calls `name`; 0 if there is none.
  static func startOfMapping(_ name: StaticString) -> UInt {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 1024) { buffer in
      var found: UInt = 0
      var start: UInt = 0  // the number at the start of the line
      var isInStart = true
      var matched = 0  // bytes of the name at the end of the bytes read so far
      forEachByteOfMaps(buffer) { byte in
        if byte == UInt8(ascii: "\n") {
          if matched == name.utf8CodeUnitCount {
            found = start
            return true
          }
          start = 0
          isInStart = true
          matched = 0
          return false
        }
        if isInStart, let digit = hexadecimalDigit(byte) { start = start << 4 | digit } else { isInStart = false }
        matched = matched < name.utf8CodeUnitCount && byte == name.utf8Start[matched] ? matched + 1 : 0
        return false
      }
      return found
    }
  }

  /// The bounds of the mapping around `address`, as /proc/self/maps has them; nil if there is none,
  /// or too many mappings lie below it.
  static func mapping(of address: UInt64) -> (low: UInt64, high: UInt64)? {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { buffer in
      let mostReads = 1 << 16
      var found: (low: UInt64, high: UInt64)?
      var (low, high): (UInt64, UInt64) = (0, 0)
      var field = 0  // of the line: start, end, the rest
      forEachByteOfMaps(buffer, mostReads: mostReads) { byte in
        if byte == UInt8(ascii: "\n") {
          (low, high, field) = (0, 0, 0)
        } else if field < 2 {
          if let digit = hexadecimalDigit(byte) {
            if field == 0 { low = low << 4 | UInt64(digit) } else { high = high << 4 | UInt64(digit) }
            return false
          }
          field += 1
          if field == 2 && high > address {
            found = low <= address ? (low, high) : nil
            return true
          }
        }
        return false
      }
      return found
    }
  }

  /// The permissions of the page at `address`, as mprotect takes them; nil if they cannot be found
  /// out.
  static func protection(of address: UInt64) -> Int? {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 1024) { buffer in
      // "start-end rwxp …": two numbers, then a letter for each permission.
      var numbers: (UInt, UInt) = (0, 0)
      var field = 0
      var protection = 0
      var found: Int?
      forEachByteOfMaps(buffer) { byte in
        switch byte {
        case UInt8(ascii: "\n"): (numbers, field, protection) = ((0, 0), 0, 0)
        case UInt8(ascii: "-") where field == 0: field = 1
        case UInt8(ascii: " ") where field == 1: field = 2
        case UInt8(ascii: " ") where field == 2:
          if UInt(address) >= numbers.0, UInt(address) < numbers.1 {
            found = protection
            return true
          }
          field = 3
        default:
          switch field {
          case 0: numbers.0 = numbers.0 << 4 | (hexadecimalDigit(byte) ?? 0)
          case 1: numbers.1 = numbers.1 << 4 | (hexadecimalDigit(byte) ?? 0)
          case 2:
            if byte == UInt8(ascii: "r") { protection |= 1 }
            if byte == UInt8(ascii: "w") { protection |= 2 }
            if byte == UInt8(ascii: "x") { protection |= 4 }
          default: break
          }
        }
        return false
      }
      return found
    }
  }
}
