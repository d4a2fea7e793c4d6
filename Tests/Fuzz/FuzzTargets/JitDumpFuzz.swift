// SPDX-License-Identifier: Apache-2.0
// Bytes taken for the records of a jitdump file, whose header is right: a reader that is handed random bytes would look
// at none. What is read as the file grows must be what is read of the whole file at once.
//
//   a record: kind u8, then by its lower bits
//     0  a load: place u8, length u8, index u8, time u8, name u8
//     1  a move of an index: index u8, from u8, to u8, length u8, time u8
//     2  lines: place u8, count u8, said u8, and for each line offset u8, number u8, file u8
//     3  bytes as they are: size u8, and as many
//     4  the end of the file as it is read first, and later
//     5  the end of what counts; 6, 7: what is passed over
//   with 8 in the kind, the record's size is not its own but the next byte; with 16, the record lies about the length
//   of its last text, which has no zero.
//   A number from 224 on stands for one at which something ends.

import ByteText
import FileFacts
import Glibc
import Symbols

enum JitDumpFuzz {
  private static let path = "/dev/shm/jitdump-\(getpid()).fuzz"
  /// Addresses that records name, each in steps of 16.
  private static let base: UInt64 = 0x7000_0000_0000

  static func run(_ script: ArraySlice<UInt8>) {
    var maker = Maker(script)
    maker.make()
    let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { return }
    defer {
      close(descriptor)
      unlink(path)
    }
    var grown = JitDump()
    var start = 0
    for end in maker.ends + [maker.bytes.count] {
      maker.bytes[start..<end].withUnsafeBytes { _ = write(descriptor, $0.baseAddress, $0.count) }
      start = end
      read(&grown)
    }
    var whole = JitDump()
    read(&whole)
    let ends = Maker.ends + (0..<224).map { base + UInt64($0) * 16 + 3 }
    for address in ends {
      precondition(grown.functions(at: address) == whole.functions(at: address), "what is read as it grows is other")
    }
  }

  private static func read(_ dump: inout JitDump) {
    guard let file = try? RegularFile(path: ForeignText(path)) else { return }
    dump.read(file, processID: 7) { $0 < 64 << 20 }
  }

  private struct Maker {
    static let ends: [UInt64] = [
      0, 1, 0x3F, 0x40, 0x41, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 47) - 1, 1 << 47, (1 << 63) - 1,
      1 << 63, .max - 0x1000, .max - 16, .max - 1, .max, base - 1, base + 224 * 16,
    ]

    var bytes: [UInt8] = []
    /// Where the file ends when it is read, but for the last time.
    var ends: [Int] = []
    private var rest: ArraySlice<UInt8>

    init(_ script: ArraySlice<UInt8>) { rest = script }

    private mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }
    /// A number of the script: small, or one at which something ends.
    private mutating func number(_ unit: UInt64 = 1, from first: UInt64 = 0) -> UInt64 {
      let byte = byte()
      if byte < 224 { return first + UInt64(byte) * unit }
      return Self.ends[Int(byte - 224) % Self.ends.count]
    }
    private mutating func word(_ value: UInt32) { withUnsafeBytes(of: value) { bytes += $0 } }
    private mutating func long(_ value: UInt64) { withUnsafeBytes(of: value) { bytes += $0 } }
    private mutating func text(endsWell: Bool) {
      let number = byte()
      // The mark of V8's for the file of the line before; a name that is longer than names may be; one that is no text.
      switch number {
      case 255: bytes.append(0xFF)
      case 254: bytes += Array(repeating: UInt8(ascii: "l"), count: 70_000)
      case 253: bytes += [0xC3, 0x28]
      default: bytes += Array("f\(number)".utf8)
      }
      if endsWell { bytes.append(0) }
    }

    mutating func make() {
      for value: UInt32 in [0x4A69_5444, 1, 40, JitDump.machine, 0, 7] { word(value) }
      long(1)
      // Whether the times count.
      long(UInt64(byte() & 1))
      while !rest.isEmpty, bytes.count < 1 << 20 {
        let kind = byte()
        let endsWell = kind & 16 == 0
        let start = bytes.count
        switch kind & 7 {
        case 0:
          let (place, length, index, time) = (number(16, from: base), number(8), number(), number())
          record(0, time)
          for value in [0, place, place, length, index] { long(value) }
          text(endsWell: endsWell)
          bytes += Array(repeating: 0x90, count: Int(min(length, 32)))
        case 1:
          let (index, from, to) = (number(), number(16, from: base), number(16, from: base))
          let (length, time) = (number(8), number())
          record(1, time)
          for value in [0, to, from, to, length, index] { long(value) }
        case 2:
          let (place, count, said) = (number(16, from: base), byte() & 31, byte())
          record(2, 1)
          long(place)
          long(said < 128 ? UInt64(count) : UInt64(said))
          for _ in 0..<count {
            long(place &+ number())
            word(UInt32(truncatingIfNeeded: number()))
            word(0)
            text(endsWell: endsWell)
          }
        case 3:
          let size = min(Int(byte()), rest.count)
          bytes += rest.prefix(size)
          rest = rest.dropFirst(size)
          continue
        case 4:
          ends.append(bytes.count)
          continue
        case let other: record(other == 5 ? 3 : 4, 1)
        }
        let size = kind & 8 == 0 ? UInt32(bytes.count - start) : UInt32(truncatingIfNeeded: number())
        bytes.replaceSubrange(start + 4..<start + 8, with: withUnsafeBytes(of: size) { Array($0) })
      }
    }

    private mutating func record(_ kind: UInt32, _ time: UInt64) {
      word(kind)
      word(0)
      long(time)
    }
  }
}
