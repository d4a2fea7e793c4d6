// SPDX-License-Identifier: Apache-2.0
// The record that a test program kept of its allocations: see Programs/record.h.

import Foundation
import TestSupport

struct Record {
  struct Block: Equatable {
    var base: UInt64
    var size: UInt64
    /// As asked for; nil if none was.
    var alignment: UInt64?
    var site: UInt32
    var thread: UInt32

    var end: UInt64 { base + max(size, 1) }
  }
  struct Site {
    var start: UInt64
    var end: UInt64
    var function: String
  }

  /// Live blocks by base.
  var blocks: [Block]
  /// Blocks that were freed, not all; their addresses may be in use again.
  var freed: [Block]
  var sites: [UInt32: Site]

  /// Reads what a program wrote for a check point.
  init(directory: String, checkpoint: Int) throws {
    blocks = try Record.readBlocks("\(directory)/\(checkpoint).blocks").sorted { $0.base < $1.base }
    let freedPath = "\(directory)/\(checkpoint).freed"
    freed = FileManager.default.fileExists(atPath: freedPath) ? try Record.readBlocks(freedPath) : []
    sites = try Record.readSites("\(directory)/sites")
  }

  init(blocks: [Block], freed: [Block], sites: [UInt32: Site]) {
    (self.blocks, self.freed, self.sites) = (blocks, freed, sites)
  }

  static func readSites(_ path: String) throws -> [UInt32: Site] {
    var sites: [UInt32: Site] = [:]
    for line in try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 3)
      guard words.count == 4, let id = UInt32(words[0]), let start = UInt64(words[1], radix: 16),
        let end = UInt64(words[2], radix: 16)
      else { throw HarnessError("the record's sites hold '\(line)'") }
      sites[id] = Site(start: start, end: end, function: String(words[3]))
    }
    return sites
  }

  static func readBlocks(_ path: String) throws -> [Block] {
    let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    guard bytes.count % 32 == 0 else { throw HarnessError("\(path) is cut short") }
    return bytes.withUnsafeBytes { raw in
      stride(from: 0, to: raw.count, by: 32).map { offset in
        let alignment = raw.loadUnaligned(fromByteOffset: offset + 16, as: UInt64.self)
        return Block(
          base: raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self),
          size: raw.loadUnaligned(fromByteOffset: offset + 8, as: UInt64.self),
          alignment: alignment == 0 ? nil : alignment,
          site: raw.loadUnaligned(fromByteOffset: offset + 24, as: UInt32.self),
          thread: raw.loadUnaligned(fromByteOffset: offset + 28, as: UInt32.self))
      }
    }
  }
}
