// SPDX-License-Identifier: Apache-2.0
// The mappings of a live process, from /proc/PID/maps (format: proc(5), Linux fs/proc/task_mmu.c).
//
//   start-end perms offset major:minor inode   path
//   55d0c0fc0000-55d0c1000000 rw-p 00000000 00:00 0                          [heap]
//
// The path is the rest of the line behind the inode and its blanks; it may hold blanks itself. The kernel writes a
// newline in it as \012, and puts " (deleted)" behind the path of a file that is gone. A line that does not fit the
// format is skipped, as a later kernel may add lines. Lines are in order of address, and are sorted if they are not.

import Bounds
import ByteText
import IndexReader

/// One mapping.
public struct Mapping: Hashable, Sendable {
  /// First address.
  public var start: UInt64
  /// The address behind the last byte.
  public var end: UInt64
  /// The permissions as /proc writes them: `rw-p`.
  public var permissions: String
  /// Bytes from the file's start.
  public var offset: UInt64
  public var device: Device
  /// The inode; 0 if no file is mapped.
  public var inode: UInt64
  /// Path of the file, or the kernel's name for it such as `[heap]`; nil for an anonymous mapping.
  public var path: ForeignText?
  /// Whether the file was removed or replaced since it was mapped; `path` is without the kernel's mark of that.
  public var isDeleted: Bool

  /// The number of a device.
  public struct Device: Hashable, Sendable {
    public var major: UInt32
    public var minor: UInt32

    public init(major: UInt32, minor: UInt32) {
      self.major = major
      self.minor = minor
    }
  }

  public init(
    start: UInt64, end: UInt64, permissions: String, offset: UInt64 = 0, device: Device = Device(major: 0, minor: 0),
    inode: UInt64 = 0, path: ForeignText? = nil, isDeleted: Bool = false
  ) {
    self.start = start
    self.end = end
    self.permissions = permissions
    self.offset = offset
    self.device = device
    self.inode = inode
    self.path = path
    self.isDeleted = isDeleted
  }

  /// By the kernel's answer about one mapping.
  init(_ facts: MappingFacts) {
    let (path, isDeleted) = Self.path(facts.name[...], inode: facts.inode)
    let access = "\(facts.isReadable ? "r" : "-")\(facts.isWritable ? "w" : "-")\(facts.isExecutable ? "x" : "-")"
    self.init(
      start: facts.start, end: facts.end, permissions: "\(access)\(facts.isShared ? "s" : "p")", offset: facts.offset,
      device: Device(major: facts.major, minor: facts.minor), inode: facts.inode,
      path: path.isEmpty ? nil : ForeignText(reversibly: path), isDeleted: isDeleted)
  }

  /// The path without the kernel's mark that its file is gone, and whether it had that mark.
  fileprivate static func path(_ name: ArraySlice<UInt8>, inode: UInt64) -> (ArraySlice<UInt8>, isDeleted: Bool) {
    let mark = " (deleted)".utf8
    guard inode != 0, name.count > mark.count, name.suffix(mark.count).elementsEqual(mark) else { return (name, false) }
    return (name.dropLast(mark.count), true)
  }

  public func contains(_ address: UInt64) -> Bool { address >= start && address < end }

  /// Empty if its bounds are the wrong way round, which the parser doesn't let pass.
  var range: Range<UInt64> { start..<max(start, end) }

  /// Whether the mapping is neither readable nor writable nor executable: address space that is only reserved.
  public var isInaccessible: Bool { permissions.hasPrefix("---") }
  /// Whether it is the memory of `brk`.
  public var isBreak: Bool { path == "[heap]" }
  /// Whether no file is mapped, and the kernel gives no name but one that a program set by prctl: `[anon:…]`.
  public var isAnonymous: Bool {
    guard let path else { return true }
    return path.hasPrefix("[anon:") || path.hasPrefix("[anon_shmem:")
  }
  /// Whether it is the stack of the main thread.
  public var isMainStack: Bool { path == "[stack]" }
  /// Whether it is memory that processes share under the name of a file: of memfd_create, shmget, an anonymous mapping
  /// that is shared, or in /dev/shm.
  var isMemory: Bool {
    ["/memfd:", "/SYSV", "/dev/zero", "/dev/shm/"].contains { path?.hasPrefix($0) == true }
  }

  /// Whether a file is mapped, judged by the path.
  public var isFile: Bool { inode != 0 && path?.hasPrefix("/") == true }
}

/// Mappings of a process at one moment, in order of address: all, but where it is said that only some were asked for.
public struct ProcessMaps: Sendable {
  public private(set) var mappings: [Mapping]
  /// The ends of the mappings: a search reads these alone.
  private var ends: [UInt64]

  public init(_ mappings: [Mapping]) {
    let isSorted = zip(mappings, mappings.dropFirst()).allSatisfy { $0.start <= $1.start }
    self.mappings = isSorted ? mappings : mappings.sorted { $0.start < $1.start }
    ends = self.mappings.map(\.end)
  }

  /// Whether the file of `mapping` is mapped with permission to execute, there or elsewhere.
  func executes(_ mapping: Mapping) -> Bool {
    mappings.contains { other in
      other.inode == mapping.inode && other.device == mapping.device && other.permissions.dropFirst(2).first == "x"
    }
  }

  /// Parses the text of a maps file.
  public init(text: [UInt8]) {
    var mappings: [Mapping] = []
    var cache: [[UInt8]: String] = [:]
    // A process may have millions of mappings.
    var meter = BudgetMeter()
    let share = MemoryShare()
    var start = 0
    while start < text.count, meter.goesOn() {
      let end = text[start...].firstIndex(of: UInt8(ascii: "\n")) ?? text.count
      if let mapping = Self.parse(text[start..<end], permissions: &cache) {  // bounded: start is below text.count
        mappings.append(mapping)
        share.hold(mappings.count &* (2 &* MemoryLayout<Mapping>.stride &+ 48))
      }
      start = end &+ 1
    }
    self.init(mappings)
  }

  /// The mapping that holds `address`.
  public func mapping(containing address: UInt64) -> Mapping? {
    index(containing: address).map { mappings[$0] }
  }

  /// Index in `mappings` of the mapping that holds `address`.
  public func index(containing address: UInt64) -> Int? {
    let low = ends.partitioningIndex { $0 > address }
    return low < ends.count && mappings[low].start <= address ? low : nil
  }

  /// The nearest mappings below and above `address`, which is in no mapping.
  func neighbours(of address: UInt64) -> (below: Mapping?, above: Mapping?) {
    let place = ends.partitioningIndex { $0 > address }
    return (place > 0 ? mappings[place &- 1] : nil, place < mappings.count ? mappings[place] : nil)
  }

  // MARK: a line

  private static func parse(_ line: ArraySlice<UInt8>, permissions cache: inout [[UInt8]: String]) -> Mapping? {
    var rest = line
    guard let start = hexadecimal(&rest), take("-", &rest), let end = hexadecimal(&rest), start < end else {
      return nil
    }
    guard take(" ", &rest) else { return nil }
    let permissions = Array(rest.prefix(4))
    guard permissions.count == 4, isPermissions(permissions) else { return nil }
    rest = rest.dropFirst(4)
    guard take(" ", &rest), let offset = hexadecimal(&rest) else { return nil }
    guard take(" ", &rest), let major = hexadecimal(&rest), take(":", &rest), let minor = hexadecimal(&rest) else {
      return nil
    }
    guard take(" ", &rest), let inode = decimal(&rest), rest.first == nil || rest.first == 0x20 else { return nil }

    let (path, isDeleted) = Mapping.path(rest.drop { $0 == 0x20 }, inode: inode)
    let text: String
    if let known = cache[permissions] {
      text = known
    } else {
      text = String(decoding: permissions, as: UTF8.self)
      cache[permissions] = text
    }
    return Mapping(
      start: start, end: end, permissions: text, offset: offset,
      device: Mapping.Device(major: UInt32(truncatingIfNeeded: major), minor: UInt32(truncatingIfNeeded: minor)),
      inode: inode, path: path.isEmpty ? nil : ForeignText(reversibly: unescaped(path)), isDeleted: isDeleted)
  }

  private static func isPermissions(_ bytes: [UInt8]) -> Bool {
    let allowed = ["r-", "w-", "x-", "ps"]
    return zip(bytes, allowed).allSatisfy { byte, set in set.utf8.contains(byte) }
  }

  /// A newline in a path is written \012. A backslash itself is not escaped, so nothing else is undone.
  private static func unescaped(_ path: ArraySlice<UInt8>) -> [UInt8] {
    let newline = Array("\\012".utf8)
    guard path.contains(UInt8(ascii: "\\")) else { return Array(path) }
    var result: [UInt8] = []
    var rest = path
    while let byte = rest.first {
      if rest.starts(with: newline) {
        result.append(0x0A)
        rest = rest.dropFirst(newline.count)
      } else {
        result.append(byte)
        rest = rest.dropFirst()
      }
    }
    return result
  }

  private static func take(_ expected: Character, _ rest: inout ArraySlice<UInt8>) -> Bool {
    guard rest.first == expected.asciiValue else { return false }
    rest = rest.dropFirst()
    return true
  }

  private static func hexadecimal(_ rest: inout ArraySlice<UInt8>) -> UInt64? {
    var value: UInt64 = 0
    var digits = 0
    while let byte = rest.first, let digit = hexadecimalDigit(byte) {
      guard value >> 60 == 0 else { return nil }
      value = value << 4 | UInt64(truncatingIfNeeded: digit)
      digits &+= 1
      rest = rest.dropFirst()
    }
    return digits > 0 ? value : nil
  }

  private static func decimal(_ rest: inout ArraySlice<UInt8>) -> UInt64? {
    var value: UInt64 = 0
    var digits = 0
    while let byte = rest.first, byte &- 0x30 < 10 {
      let (product, overflow) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = product.addingReportingOverflow(UInt64(truncatingIfNeeded: byte & 15))
      guard !overflow, !carry else { return nil }
      value = sum
      digits &+= 1
      rest = rest.dropFirst()
    }
    return digits > 0 ? value : nil
  }
}
