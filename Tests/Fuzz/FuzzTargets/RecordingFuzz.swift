// SPDX-License-Identifier: Apache-2.0
// Bytes taken for the chunks of a recording. Checksums and lengths are made right, but for chunks that ask for another:
// a reader that is handed random bytes would look at none.
//
//   a chunk: kind u8, what u8, events u16, unpacked u16, size u16, payload
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

  private static func file(_ script: ArraySlice<UInt8>) -> [UInt8] {
    var rest = script
    func number(_ bytes: Int) -> Int {
      (0..<bytes).reduce(0) { number, index in number | Int(rest.popFirst() ?? 0) << (8 * index) }
    }
    var bytes = RecordingFormat.fileHeader
    var chunks: UInt32 = 0
    var events: UInt64 = 0
    while !rest.isEmpty {
      var header = ChunkHeader(kind: UInt16(number(1)))
      let what = number(1)
      header.flags = UInt16(what & 1)
      header.events = UInt32(number(2))
      let unpacked = number(2)
      let size = min(number(2), rest.count)
      let payload = Array(rest.prefix(size))
      rest = rest.dropFirst(size)
      header.unpacked = UInt32(what & 1 != 0 ? unpacked : size)
      if what & 8 != 0 { (chunks, events) = (chunks + 3, events + 100) }
      (header.number, header.eventsBefore) = (chunks, events)
      (header.firstStamp, header.lastStamp) = what & 16 == 0 ? (0, 1 << 50) : (1 << 50, 0)
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
