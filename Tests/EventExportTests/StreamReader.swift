// SPDX-License-Identifier: Apache-2.0
// Reads the binary form of an event stream back, as its description in RecordStream.swift says.

import EventExport

struct StreamContents {
  var addresses: [UInt64] = []
  var records = 0
  /// Of each ring: the position behind its last record, to see gaps that no loss accounts for.
  var gaps: UInt64 = 0
  var lost: UInt64 = 0
  var damagedRings: [UInt32] = []
  var end: UInt64?
  /// Why it is no stream.
  var problem: String?
  private var next: [UInt32: UInt64] = [:]

  init(_ bytes: [UInt8]) {
    func word(_ at: Int) -> UInt64 { (0..<8).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64($1 * 8) } }
    guard bytes.count >= 16, word(0) == RecordStream.magic, word(8) == 1 | 32 << 32 else {
      problem = "no stream"
      return
    }
    var place = 16
    while place < bytes.count {
      guard place + 32 <= bytes.count else {
        problem = "cut in a frame"
        return
      }
      let (kind, ring) = (word(place) & 0xFFFF_FFFF, UInt32(word(place) >> 32))
      let (a, b) = (word(place + 8), word(place + 16))
      place += 32
      switch kind {
      case 1:
        guard b * 32 <= UInt64(bytes.count - place) else {
          problem = "cut in records"
          return
        }
        gaps += a - min(a, next[ring, default: a])
        next[ring] = a + b
        for _ in 0..<b {
          addresses.append(word(place) & 0xFFFF_FFFF_FFFF)
          place += 32
        }
        records += Int(b)
      case 2: lost += a
      case 3: damagedRings.append(ring)
      case 4: end = a
      default: problem = "frame of kind \(kind)"
      }
    }
  }
}
