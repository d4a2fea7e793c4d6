// SPDX-License-Identifier: Apache-2.0
// The top of the main thread's stack, as the kernel fills it when a program is executed (Linux fs/binfmt_elf.c):
//
//   start of stack   argc | argv pointers, 0 | environment pointers, 0 | auxiliary vector | …
//                    random bytes, platform name | strings of the arguments | strings of the environment |
//                    path that was executed
//
// /proc/PID/stat and /proc/PID/auxv say where each part lies. The strings are read from /proc/PID/cmdline and environ,
// which show the memory as it is now: a program may have written over it. Only those who may trace the process can read
// the pointers.

import Bounds
import ByteText
import Glibc
import IndexReader

struct InitialStack {
  private let start: UInt64
  private let arguments: Range<UInt64>
  private let environment: Range<UInt64>
  private let argumentText: Strings
  private let environmentText: Strings
  /// Types and values.
  private let vector: [(type: UInt64, value: UInt64)]
  /// The numbers of pointers; nil if they may not be read.
  private let counts: (arguments: UInt64, environment: UInt64)?

  private static let longestText = 256
  private static let mostPointers: UInt64 = 1 << 20
  private static let mostText = 1 << 22

  /// Strings that each end in a zero.
  private struct Strings {
    private let text: [UInt8]
    /// Where in `text` each string begins.
    private let starts: [Int]

    /// `text` lies at the start of `range`, and no further than its end.
    init(_ text: [UInt8], within range: Range<UInt64>) {
      let size = Foreign(range.upperBound) - range.lowerBound
      let text = Array(text[..<(size.int(upTo: text.count) ?? text.count)])
      self.text = text
      var starts = [0]
      for index in text.indices where text[index] == 0 { starts.append(index &+ 1) }
      self.starts = starts
    }

    /// The string around an offset: its number, its bytes, and the bytes before the offset in it.
    func string(at offset: UInt64) -> (index: Int, bytes: ArraySlice<UInt8>, offset: UInt64)? {
      guard let place = Foreign(offset).int(upTo: text.count), place < text.count else { return nil }
      let index = starts.partitioningIndex { $0 > place } &- 1
      let start = starts[index]
      let end = text[place...].firstIndex(of: 0) ?? text.count
      // bounded: start is no more than place, which is no more than end
      return (index, text[start..<end], UInt64(truncatingIfNeeded: place &- start))
    }
  }

  /// Fails if the places of the parts may not be read.
  init?(_ directory: borrowing ProcessDirectory) {
    guard let line = try? directory.memoryStatistics(), let end = line.lastIndex(of: UInt8(ascii: ")")) else {
      return nil
    }
    let fields = line[(end &+ 1)...].split(whereSeparator: { $0 == 0x20 || $0 == 0x0A })
    // Field 3 is the first field behind the command.
    func field(_ number: Int) -> UInt64 {
      let index = number &- 3
      guard index < fields.count else { return 0 }
      let text = String(decoding: fields[index], as: UTF8.self)
      guard let value = UInt64(text) else { return 0 }
      return value
    }
    let (stack, arguments, environment) = (field(28), (field(48), field(49)), (field(50), field(51)))
    guard arguments.0 > 0, arguments.0 <= arguments.1, environment.0 <= environment.1 else { return nil }
    start = stack
    // bounded: just compared, each pair
    self.arguments = arguments.0..<arguments.1
    self.environment = environment.0..<environment.1
    argumentText = Strings((try? directory.read("cmdline", limit: Self.mostText)) ?? [], within: self.arguments)
    environmentText = Strings((try? directory.read("environ", limit: Self.mostText)) ?? [], within: self.environment)
    let auxiliary = (try? directory.read("auxv", limit: 1 << 16)) ?? []
    vector = stride(from: 0, to: auxiliary.count - 15, by: 16).map { offset in
      (Self.word(auxiliary, offset), Self.word(auxiliary, offset &+ 8))
    }
    counts = Self.counts(directory, start)
  }

  private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
    bytes[offset...].prefix(8).reversed().reduce(0) { $0 << 8 | UInt64(truncatingIfNeeded: $1) }
  }

  private static func counts(
    _ directory: borrowing ProcessDirectory, _ start: UInt64
  ) -> (arguments: UInt64, environment: UInt64)? {
    guard start != 0, let head = directory.memory(at: start, count: 8) else { return nil }
    let arguments = word(head, 0)
    guard arguments < mostPointers else { return nil }
    var place = start &+ 8 &* (arguments &+ 2)
    var meter = BudgetMeter(interval: 1)
    var environment: UInt64 = 0
    while environment < mostPointers, meter.goesOn(), let piece = directory.memory(at: place, count: 4096),
      !piece.isEmpty
    {
      for offset in stride(from: 0, to: piece.count - 7, by: 8) {
        if word(piece, offset) == 0 { return (arguments, environment) }
        environment &+= 1
      }
      place &+= UInt64(truncatingIfNeeded: piece.count)
    }
    return nil
  }

  // MARK: a place

  /// The part at `address`, if the kernel put something there.
  func part(at address: UInt64) -> Answer.Part? {
    if arguments.contains(address) {
      guard let found = argumentText.string(at: address &- arguments.lowerBound) else {
        return Answer.Part(.argument)
      }
      return Answer.Part(
        .argument, name: "argv[\(found.index)]", text: Self.text(found.bytes), offset: found.offset,
        size: UInt64(truncatingIfNeeded: found.bytes.count) &+ 1)
    }
    if environment.contains(address) {
      guard let found = environmentText.string(at: address &- environment.lowerBound) else {
        return Answer.Part(.environment)
      }
      let name = found.bytes.prefix { $0 != UInt8(ascii: "=") }
      return Answer.Part(
        .environment, name: name.isEmpty ? nil : Self.text(name),
        text: Self.text(found.bytes.dropFirst(name.count).dropFirst()), offset: found.offset,
        size: UInt64(truncatingIfNeeded: found.bytes.count) &+ 1)
    }
    return kernelString(at: address) ?? pointer(at: address)
  }

  private static func text(_ bytes: ArraySlice<UInt8>) -> ForeignText {
    let text = ForeignText(reversibly: bytes.prefix(Self.longestText))
    return bytes.count > longestText ? "\(text)…" : text
  }

  /// The parts that entries of the auxiliary vector point to.
  private func kernelString(at address: UInt64) -> Answer.Part? {
    let randomBytes: UInt64 = 16
    for entry in vector where entry.value > start && entry.value <= address {
      switch entry.type {
      case UInt64(AT_RANDOM) where address &- entry.value < randomBytes:
        return Answer.Part(.kernelStrings, name: "AT_RANDOM", offset: address &- entry.value, size: randomBytes)
      case UInt64(AT_EXECFN):
        // The path lies at the end of the stack, before a word of zeros.
        return Answer.Part(.kernelStrings, name: "AT_EXECFN", offset: address &- entry.value)
      case UInt64(AT_PLATFORM) where address &- entry.value < 16 && address < arguments.lowerBound:
        return Answer.Part(.kernelStrings, name: "AT_PLATFORM", offset: address &- entry.value)
      default: break
      }
    }
    return nil
  }

  private func pointer(at address: UInt64) -> Answer.Part? {
    guard let counts, address >= start else { return nil }
    var rest = (address &- start) / 8
    let offset = (address &- start) % 8
    func pointer(_ name: ForeignText) -> Answer.Part { Answer.Part(.pointers, name: name, offset: offset, size: 8) }
    if rest == 0 { return pointer("argc") }
    rest &-= 1
    if rest <= counts.arguments { return pointer("argv[\(rest)]") }
    rest &-= counts.arguments &+ 1
    if rest <= counts.environment { return pointer("environ[\(rest)]") }
    rest &-= counts.environment &+ 1
    guard rest / 2 < UInt64(truncatingIfNeeded: vector.count) else { return nil }
    let entry = vector[Int(truncatingIfNeeded: rest / 2)]
    return Answer.Part(
      .auxiliaryVector, name: Self.names[entry.type] ?? "type \(entry.type)", text: ForeignText(hex(entry.value)),
      offset: rest % 2 &* 8 &+ offset, size: 16)
  }

  /// Linux include/uapi/linux/auxvec.h and arch/x86/include/uapi/asm/auxvec.h.
  private static let names: [UInt64: ForeignText] = [
    0: "AT_NULL", 2: "AT_EXECFD", 3: "AT_PHDR", 4: "AT_PHENT", 5: "AT_PHNUM", 6: "AT_PAGESZ", 7: "AT_BASE",
    8: "AT_FLAGS", 9: "AT_ENTRY", 10: "AT_NOTELF", 11: "AT_UID", 12: "AT_EUID", 13: "AT_GID", 14: "AT_EGID",
    15: "AT_PLATFORM", 16: "AT_HWCAP", 17: "AT_CLKTCK", 23: "AT_SECURE", 24: "AT_BASE_PLATFORM", 25: "AT_RANDOM",
    26: "AT_HWCAP2", 27: "AT_RSEQ_FEATURE_SIZE", 28: "AT_RSEQ_ALIGN", 29: "AT_HWCAP3", 30: "AT_HWCAP4",
    31: "AT_EXECFN", 32: "AT_SYSINFO", 33: "AT_SYSINFO_EHDR", 51: "AT_MINSIGSTKSZ",
  ]
}
