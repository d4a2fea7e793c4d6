// SPDX-License-Identifier: Apache-2.0
// The format of a recording: a header, then chunks, each with checksums of its own.
// docs/recording.md describes all of it.
//
//   +----------------+-------+-------+-------+--- … ---+-------+
//   | file header 32 | chunk | chunk | chunk |         | end   |
//   +----------------+-------+-------+-------+--- … ---+-------+
//   chunk: 64 bytes of header, then `stored` bytes
//
// - All numbers are little-endian. The meaning of a chunk does not depend on the chunks around it
//   being whole: tables only add rows, and each chunk of events is decoded on its own.
// - A header counts the events of all chunks before it. So a reader that finds the next whole chunk
//   knows how many events the damaged ones held.
// - A recording is written front to back and nothing is changed later: a recording that was cut
//   short lacks its end, and nothing else.

/// Numbers of the format.
public enum RecordingFormat {
  /// "ALLOCREC" in the file's order.
  static let magic: UInt64 = 0x4345_5243_4F4C_4C41
  public static let version: UInt32 = 1
  static let headerSize = 32
  /// "CHNK" in the file's order.
  static let chunkMagic: UInt32 = 0x4B4E_4843
  package static let chunkHeaderSize = 64
  /// Bytes that a chunk has at most, stored or unpacked: bounds the memory that a hostile file can
  /// make a reader take.
  static let chunkLimit = 64 << 20
  /// Events that a chunk has at most. A writer that is killed loses the chunk that it is filling,
  /// and the chunks that are being compressed.
  static let eventsPerChunk = 1 << 20
  /// Bytes that the payload of a chunk of so many events has at most: an event takes 111 bytes if
  /// nothing of it was guessed and all its numbers are large, and a batch of its own takes 40.
  static func mostBytes(ofEvents count: Int) -> UInt32 {
    // bounded: no more events than a chunk may have
    UInt32(truncatingIfNeeded: 1024 + 160 * min(count, eventsPerChunk))
  }

  enum ChunkKind: UInt16 {
    case process = 1
    case modules = 2
    case nodes = 3
    case contexts = 4
    case threads = 5
    case blocks = 6
    case events = 7
    case losses = 8
    case names = 9
    case end = 10
    case damagedRings = 11
    case madeNames = 12
    case totals = 13
    case netEffect = 14
    case marks = 15
  }

  /// The payload is a zstd frame.
  static let flagZstd: UInt16 = 1

  /// The first bytes of a file of this version.
  package static var fileHeader: [UInt8] {
    var header: [UInt8] = []
    header.append(word: magic)
    header.append(word: version)
    header.append(word: UInt32(truncatingIfNeeded: headerSize))
    header.append(word: UInt64(0))
    header.append(word: UInt32(0))
    header.append(word: CRC32C.of(header))
    return header
  }
}

/// The header of a chunk, which stands before its payload.
package struct ChunkHeader: Equatable {
  package var kind: UInt16
  package var flags: UInt16 = 0
  /// Bytes of the payload as it is stored.
  package var stored: UInt32 = 0
  /// Bytes of the payload when it is unpacked.
  package var unpacked: UInt32 = 0
  /// Chunks before this one.
  package var number: UInt32 = 0
  /// Events in this chunk.
  package var events: UInt32 = 0
  /// Events in all chunks before it.
  package var eventsBefore: UInt64 = 0
  /// The least and the greatest stamp in the chunk, or of the span of a net effect; 0 of others.
  package var firstStamp: UInt64 = 0
  package var lastStamp: UInt64 = 0
  var payloadChecksum: UInt32 = 0

  /// The whole chunk with this payload, which is stored as it is given.
  package mutating func chunk(of stored: [UInt8]) -> [UInt8] {
    self.stored = UInt32(truncatingIfNeeded: stored.count)
    payloadChecksum = CRC32C.of(stored)
    var bytes = encoded()
    bytes.append(contentsOf: stored)
    return bytes
  }

  private func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(RecordingFormat.chunkHeaderSize)
    bytes.append(word: RecordingFormat.chunkMagic)
    bytes.append(word: UInt32(kind) | UInt32(flags) << 16)
    bytes.append(word: stored)
    bytes.append(word: unpacked)
    bytes.append(word: number)
    bytes.append(word: events)
    bytes.append(word: eventsBefore)
    bytes.append(word: firstStamp)
    bytes.append(word: lastStamp)
    bytes.append(word: payloadChecksum)
    bytes.append(word: UInt32(0))
    bytes.append(word: UInt32(0))
    bytes.append(word: CRC32C.of(bytes))
    return bytes
  }

  package init(kind: UInt16) { self.kind = kind }

  /// The header that `bytes` begin with; nil if there is no whole one, or if it promises more bytes
  /// than a chunk may have.
  package init?(_ bytes: ArraySlice<UInt8>) {
    guard bytes.count >= RecordingFormat.chunkHeaderSize else { return nil }
    let bytes = bytes.prefix(RecordingFormat.chunkHeaderSize)
    func word(_ offset: Int) -> UInt32 { bytes.word(at: bytes.startIndex &+ offset) }
    func long(_ offset: Int) -> UInt64 {
      UInt64(truncatingIfNeeded: word(offset)) | UInt64(truncatingIfNeeded: word(offset &+ 4)) << 32
    }
    guard word(0) == RecordingFormat.chunkMagic, word(60) == CRC32C.of(bytes.prefix(60)) else { return nil }
    kind = UInt16(truncatingIfNeeded: word(4))
    flags = UInt16(truncatingIfNeeded: word(4) >> 16)
    stored = word(8)
    unpacked = word(12)
    number = word(16)
    events = word(20)
    eventsBefore = long(24)
    firstStamp = long(32)
    lastStamp = long(40)
    payloadChecksum = word(48)
    guard stored <= RecordingFormat.chunkLimit, unpacked <= RecordingFormat.chunkLimit else { return nil }
  }
}

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), eight bytes a step.
enum CRC32C {
  private static let tables: [UInt32] = {
    var tables = [UInt32](repeating: 0, count: 8 * 256)
    for byte in 0..<256 {
      var value = UInt32(truncatingIfNeeded: byte)
      for _ in 0..<8 { value = value & 1 != 0 ? value >> 1 ^ 0x82F6_3B78 : value >> 1 }
      tables[byte] = value
    }
    for byte in 0..<256 {
      for step in 1..<8 {
        let value = tables[(step &- 1) &* 256 &+ byte]
        tables[step &* 256 &+ byte] = value >> 8 ^ tables[Int(value & 255)]
      }
    }
    return tables
  }()

  static func of(_ bytes: some Collection<UInt8>) -> UInt32 {
    bytes.withContiguousStorageIfAvailable { of($0) } ?? Array(bytes).withUnsafeBufferPointer { of($0) }
  }

  private static func of(_ bytes: UnsafeBufferPointer<UInt8>) -> UInt32 {
    tables.withUnsafeBufferPointer { tables in
      var value = UInt32.max
      var index = 0
      let raw = UnsafeRawBufferPointer(bytes)
      while index &+ 8 <= raw.count {
        let next = UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: index, as: UInt64.self))
        let word = next ^ UInt64(truncatingIfNeeded: value)
        value = 0
        for step in 0..<8 {
          value ^=
            tables[(7 &- step) &* 256 &+ Int(truncatingIfNeeded: word >> UInt64(truncatingIfNeeded: step &* 8) & 255)]
        }
        index &+= 8
      }
      while index < raw.count {
        value = value >> 8 ^ tables[Int(truncatingIfNeeded: (value ^ UInt32(truncatingIfNeeded: raw[index])) & 255)]
        index += 1
      }
      return ~value
    }
  }
}
