// Process: what /proc/self tells the agent when it starts, and text without allocation.

import AgentMachine
import SharedLayout

enum Process {
  /// Up to `capacity` bytes of the file, or a negated error number.
  static func readFile(_ path: StaticString, _ buffer: UnsafeMutablePointer<UInt8>, _ capacity: Int) -> Int {
    let descriptor = System.open(
      UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), System.OpenFlags.readOnly)
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

  /// When it started: clock ticks since boot; a negated error number if that cannot be read, 0 if it is not there.
  static var startTime: Int { statistic(22) }
  /// How many threads it has; likewise.
  static var threadCount: Int { statistic(20) }

  /// A field of /proc/self/stat, counted from 1 as in proc(5); a negated error number if it cannot be read, 0 if it is
  /// not there.
  private static func statistic(_ number: Int) -> Int {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 1024) { buffer in
      guard let bytes = buffer.baseAddress else { return 0 }
      let size = readFile("/proc/self/stat", bytes, 1024)
      guard size >= 0 else { return size }
      guard var index = (0..<size).last(where: { bytes[$0] == UInt8(ascii: ")") }) else { return 0 }
      // The name, field 2, may hold anything; field 3 follows its last parenthesis.
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

extension Process {
  /// What the process's time namespace adds to CLOCK_MONOTONIC and to the time since boot, in nanoseconds; nil if that
  /// can't be known. Zeros where the kernel has no time namespaces.
  static var clockOffsets: (monotonic: Int64, boottime: Int64)? {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { buffer -> (monotonic: Int64, boottime: Int64)? in
      guard let bytes = buffer.baseAddress else { return nil }
      let size = readFile("/proc/self/timens_offsets", bytes, 256)
      if size == System.noEntry { return (0, 0) }
      guard size > 0 else { return nil }
      var offsets: (monotonic: Int64, boottime: Int64) = (0, 0)
      var index = 0
      // Each line: the clock's name, seconds, which may be negative, and nanoseconds, which are not.
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
      // The file is about the namespace of the process's children to come, which is the process's own but where it has
      // called unshare(2) and, before Linux 6.1, exec.
      return offsets == (0, 0) || isInTimeNamespaceOfChildren ? offsets : nil
    }
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

extension Process {
  /// The lowest address of the mapping that /proc/self/maps calls `name`, 0 if there is none.
  static func startOfMapping(_ name: StaticString) -> UInt {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 1024) { buffer in
      guard let bytes = buffer.baseAddress else { return 0 }
      let path: StaticString = "/proc/self/maps"
      let descriptor = System.open(
        UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), System.OpenFlags.readOnly)
      guard descriptor >= 0 else { return 0 }
      defer { System.close(descriptor) }
      var start: UInt = 0  // of the mapping whose line this is
      var isInStart = true
      var matched = 0  // bytes of the name at the end of what was read
      while true {
        let count = System.read(descriptor, bytes, 1024)
        guard count > 0 else { return 0 }
        for index in 0..<count {
          let byte = bytes[index]
          if byte == UInt8(ascii: "\n") {
            if matched == name.utf8CodeUnitCount { return start }
            start = 0
            isInStart = true
            matched = 0
            continue
          }
          if isInStart, let digit = hexadecimalDigit(byte) { start = start << 4 | digit } else { isInStart = false }
          matched = matched < name.utf8CodeUnitCount && byte == name.utf8Start[matched] ? matched + 1 : 0
        }
      }
    }
  }

  /// The bounds of the mapping around `address`, as /proc/self/maps has them; nil if there is none, or too many are
  /// before it.
  static func mapping(of address: UInt64) -> (low: UInt64, high: UInt64)? {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { buffer in
      let mostReads = 1 << 16
      guard let bytes = buffer.baseAddress else { return nil }
      let path: StaticString = "/proc/self/maps"
      let descriptor = System.open(
        UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), System.OpenFlags.readOnly)
      guard descriptor >= 0 else { return nil }
      defer { System.close(descriptor) }
      var (low, high): (UInt64, UInt64) = (0, 0)
      var field = 0  // of the line: start, end, the rest
      for _ in 0..<mostReads {
        let count = System.read(descriptor, bytes, 256)
        guard count > 0 else { return nil }
        for index in 0..<count {
          if bytes[index] == UInt8(ascii: "\n") {
            (low, high, field) = (0, 0, 0)
          } else if field < 2 {
            if let digit = hexadecimalDigit(bytes[index]) {
              if field == 0 { low = low << 4 | UInt64(digit) } else { high = high << 4 | UInt64(digit) }
              continue
            }
            field += 1
            if field == 2 && high > address { return low <= address ? (low, high) : nil }
          }
        }
      }
      return nil
    }
  }

  /// What may be done with the page at `address`, as mprotect has it; nil if that cannot be found out.
  static func protection(of address: UInt64) -> Int? {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 1024) { buffer in
      guard let bytes = buffer.baseAddress else { return nil }
      let path: StaticString = "/proc/self/maps"
      let descriptor = System.open(
        UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), System.OpenFlags.readOnly)
      guard descriptor >= 0 else { return nil }
      defer { System.close(descriptor) }
      // "start-end rwxp …": two numbers, then a letter for each permission.
      var numbers: (UInt, UInt) = (0, 0)
      var field = 0
      var protection = 0
      while true {
        let count = System.read(descriptor, bytes, 1024)
        guard count > 0 else { return nil }
        for index in 0..<count {
          let byte = bytes[index]
          switch byte {
          case UInt8(ascii: "\n"): (numbers, field, protection) = ((0, 0), 0, 0)
          case UInt8(ascii: "-") where field == 0: field = 1
          case UInt8(ascii: " ") where field == 1: field = 2
          case UInt8(ascii: " ") where field == 2:
            if UInt(address) >= numbers.0, UInt(address) < numbers.1 { return protection }
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
        }
      }
    }
  }

  private static func hexadecimalDigit(_ byte: UInt8) -> UInt? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt(byte - UInt8(ascii: "0"))
    case UInt8(ascii: "a")...UInt8(ascii: "f"): UInt(byte - UInt8(ascii: "a")) + 10
    default: nil
    }
  }
}

// MARK: text without allocation

/// Up to 255 bytes of text, zero terminated; what does not fit is left out.
struct Text {
  static let capacity = 255
  private var bytes = InlineArray<256, UInt8>(repeating: 0)
  private(set) var count = 0

  subscript(index: Int) -> UInt8 { bytes[index] }

  mutating func append(byte: UInt8) {
    guard count < Self.capacity else { return }
    bytes[count] = byte
    count += 1
  }
  mutating func append(_ text: StaticString) {
    for index in 0..<text.utf8CodeUnitCount { append(byte: text.utf8Start[index]) }
  }
  mutating func append(_ number: UInt64) {
    if number >= 10 { append(number / 10) }
    append(byte: UInt8(ascii: "0") + UInt8(number % 10))
  }
  func withCString<Result>(_ body: (UnsafePointer<CChar>) -> Result) -> Result {
    withUnsafePointer(to: bytes) { body(UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self)) }
  }
  mutating func append(cString text: UnsafePointer<CChar>) {
    var next = text
    while next.pointee != 0 {
      append(byte: UInt8(bitPattern: next.pointee))
      next += 1
    }
  }

  /// Adds what a negated error number means, in parentheses; nothing for a number that is no error.
  mutating func append(error code: Int) {
    guard code < 0 else { return }
    append(" (")
    switch -code {
    case 1: append("operation not permitted")
    case 2: append("no such file or directory")
    case 5: append("input/output error")
    case 11: append("resource temporarily unavailable")
    case 12: append("cannot allocate memory")
    case 13: append("permission denied")
    case 17: append("file exists")
    case 20: append("not a directory")
    case 21: append("is a directory")
    case 22: append("invalid argument")
    case 23: append("too many open files in system")
    case 24: append("too many open files")
    case 27: append("file too large")
    case 28: append("no space left on device")
    case 30: append("read-only file system")
    case 36: append("file name too long")
    case 38: append("function not implemented")
    case 40: append("too many levels of symbolic links")
    case 95: append("operation not supported")
    case 122: append("disk quota exceeded")
    default:
      append("error ")
      append(UInt64(-code))
    }
    append(")")
  }

  /// Writes a line about the process to standard error, if ALLOCS_VERBOSE asks for it. Names of the program's own are
  /// in it: what a terminal would act upon becomes a question mark.
  func sayOnRequest() {
    guard allocs_process().pointee.verbose != 0 else { return }
    var line = Text()
    line.append("allocs: pid ")
    line.append(UInt64(System.processID))
    // The line's end has room, whatever there is no room for.
    for index in 0..<count where line.count < Self.capacity - 1 {
      let byte = self[index]
      line.append(byte: byte < 0x20 || byte == 0x7F ? UInt8(ascii: "?") : byte)
    }
    line.append("\n")
    let standardError = 2
    line.withCString {
      _ = System.write(standardError, UnsafeRawPointer($0).assumingMemoryBound(to: UInt8.self), line.count)
    }
  }
}
