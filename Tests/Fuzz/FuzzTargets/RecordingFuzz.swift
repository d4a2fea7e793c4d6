// SPDX-License-Identifier: Apache-2.0
// Bytes taken for the chunks of a recording. Checksums and lengths are made right, but for chunks that ask for another:
// a reader that is handed random bytes would look at none.
//
//   a chunk: kind u8, what u8, events u16, unpacked u16, size u16, payload
//   with 128 in the kind, the payload is made: numbers u8, then as many numbers; of a table in columns, for each
//                 column numbers u8 and as many numbers, before which the columns' sizes are put as the format has
//                 them. A byte from 224 on stands for one of the numbers at which something ends. So chunks of events
//                 and stacks are valid by construction, but for the numbers in them.
//
//   what: bit 0 the payload is a zstd frame (of `unpacked` bytes), 1 a bit of it is flipped, 2 the file is cut within
//         it, 3 chunks before it are missing, 4 the stamps in its header are the wrong way round

import Glibc
import Recording

enum RecordingFuzz {
  private static let path = "/dev/shm/recording-\(getpid()).fuzz"
  private static let address: UInt64 = 0x5555_0000_0010

  static func run(_ script: ArraySlice<UInt8>) {
    let bytes = file(script)
    let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { return }
    bytes.withUnsafeBytes { _ = write(descriptor, $0.baseAddress, $0.count) }
    close(descriptor)
    defer { unlink(path) }
    guard let recording = try? Recording(path: path) else { return }
    let summary = recording.summary()
    _ = recording.text(of: summary)
    if recording.isStill { _ = recording.top(nil, limit: 5).text }
    for stamp in [0, summary.peakStamp, recording.endStamp] {
      let replay = recording.replay(until: stamp)
      _ = replay.block(containing: address)
      _ = recording.top(replay, limit: 5).text
    }
    let history = AddressHistory(of: address, in: recording)
    let report = HistoryReport(recording) { Double($0) / 1e9 }
    _ = report.text(of: history, limit: 5)
    _ = report.jsonLines(of: history, limit: 5)
    // Perfetto's format replays many moments, and would take most of the time.
    for format in ExportFormat.allCases where format != .perfetto || bytes.count % 8 == 0 {
      try? recording.export(format, to: "/dev/null")
    }
  }

  // MARK: payloads that are made

  /// Numbers at which something ends: bytes of a number, tables, words, and their neighbours.
  private static let ends: [UInt64] = [
    127, 128, 16_383, 16_384, 65_535, 65_536, 1 << 20, (1 << 20) + 1, (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, (1 << 47) - 1, 1 << 47, (1 << 48) - 1, 1 << 48, (1 << 56) - 1, 1 << 56, (1 << 62) - 1,
    1 << 62,
    (1 << 63) - 1, 1 << 63, .max - 4096, .max - 1, .max, 0x5555_0000_0010, 0x5555_0000_0010 << 1, 1 << 13, 1 << 16 | 1,
    0,
  ]

  /// The columns of the kinds of chunks that have any.
  private static func columns(of kind: Int) -> Int { [3: 4, 4: 4, 7: 7][kind] ?? 0 }

  private static func made(_ kind: Int, _ header: inout ChunkHeader, _ rest: inout ArraySlice<UInt8>) -> [UInt8] {
    func numbers() -> [UInt64] {
      let count = min(Int(rest.popFirst() ?? 0), rest.count)
      defer { rest = rest.dropFirst(count) }
      return rest.prefix(count).map { $0 < 224 ? UInt64($0) : ends[Int($0 - 224)] }
    }
    func coded(_ numbers: [UInt64]) -> [UInt8] {
      numbers.flatMap { number in
        var bytes: [UInt8] = []
        var left = number
        repeat {
          bytes.append(UInt8(left & 0x7F) | (left >> 7 != 0 ? 0x80 : 0))
          left >>= 7
        } while left != 0
        return bytes
      }
    }
    let head = numbers()
    let columns = (0..<columns(of: kind)).map { _ in coded(numbers()) }
    guard kind == 7, !columns.isEmpty else {
      return coded(head) + coded(columns.map { UInt64($0.count) }) + columns.flatMap { $0 }
    }
    // One batch of all events: an operation is a byte, and the header says how many there are.
    header.events = UInt32(columns[0].count)
    let batch = (head + [0, 0, 0, 0]).prefix(4).enumerated().map { $0 < 2 ? $1 % (1 << 32) : $1 }
    return coded([1] + batch + [UInt64(columns[0].count)]) + coded(columns.map { UInt64($0.count) })
      + columns.flatMap { $0 }
  }

  private static func file(_ script: ArraySlice<UInt8>) -> [UInt8] {
    var rest = script
    func number(_ bytes: Int) -> Int {
      (0..<bytes).reduce(0) { number, index in number | Int(rest.popFirst() ?? 0) << (8 * index) }
    }
    var bytes = RecordingFormat.fileHeader
    var chunks: UInt32 = 0
    var events: UInt64 = 0
    while !rest.isEmpty {
      let kind = number(1)
      var header = ChunkHeader(kind: UInt16(kind & 0x7F))
      let what = number(1)
      header.flags = UInt16(what & 1)
      header.events = UInt32(number(2))
      let unpacked = number(2)
      let payload: [UInt8]
      if kind & 0x80 != 0 {
        payload = made(kind & 0x7F, &header, &rest)
      } else {
        let size = min(number(2), rest.count)
        payload = Array(rest.prefix(size))
        rest = rest.dropFirst(size)
      }
      header.unpacked = UInt32(what & 1 != 0 ? unpacked : payload.count)
      if what & 8 != 0 { (chunks, events) = (chunks + 3, events + 100) }
      (header.number, header.eventsBefore) = (chunks, events)
      (header.firstStamp, header.lastStamp) = what & 16 == 0 ? (0, 1 << 48) : (1 << 48, 0)
      var chunk = header.chunk(of: payload)
      if what & 2 != 0 { chunk[chunk.count - 1] ^= 1 }
      if what & 4 != 0 { chunk.removeLast(chunk.count / 3) }
      bytes += chunk
      chunks += 1
      events += UInt64(header.events)
      if what & 4 != 0 { break }
    }
    return bytes
  }
}
