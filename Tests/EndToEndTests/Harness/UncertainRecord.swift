// SPDX-License-Identifier: Apache-2.0
// The record of a program that was stopped at any moment: Programs/tables.h.

import Foundation
import IndexReader
import TestSupport

struct UncertainRecord {
  /// Blocks that there surely are.
  var certain: [Record.Block]
  /// Blocks that calls under way may have left: those that were to be freed or resized; and, with base 0, sizes of
  /// blocks to come.
  var possible: [Record.Block]
  var sites: [UInt32: Record.Site]

  init(certain: [Record.Block], possible: [Record.Block], sites: [UInt32: Record.Site]) {
    (self.certain, self.possible, self.sites) = (certain, possible, sites)
  }

  /// Reads the tables and the sites that a program has left in `directory`.
  init(directory: TestDirectory) throws {
    self.init(certain: [], possible: [], sites: try Record.readSites(directory.file("sites")))
    let underWay: UInt32 = 1 << 31
    for entry in try Record.readBlocks(directory.file("tables")) {
      if entry.site & underWay == 0 {
        if entry.base != 0 { certain.append(entry) }
        continue
      }
      var old = entry
      old.site &= ~underWay
      if old.base != 0 { possible.append(old) }
      if let size = entry.alignment {
        possible.append(Record.Block(base: 0, size: size, alignment: nil, site: old.site, thread: 0))
      }
    }
    for index in certain.indices { certain[index].alignment = nil }
    certain.sort { $0.base < $1.base }
  }

  /// Compares the index with the record. `missing`: how many blocks may be missing from the index.
  func differences(in segment: borrowing Segment, missing allowed: UInt64 = 0) -> Differences {
    var own = Record(blocks: certain, freed: [], sites: sites)
    let all = segment.allAllocations()
    if allowed > 0 {
      let known = Set(all.map(\.base))
      own.blocks.removeAll { !known.contains($0.base) }
    }
    var comparison = Comparison(record: own, baseline: [], isComplete: false)
    comparison.looksUp = false
    comparison.requiresThreads = allowed == 0
    var differences = comparison.differences(in: segment)
    if UInt64(certain.count - own.blocks.count) > allowed {
      differences.add("\(certain.count - own.blocks.count) blocks are missing, and \(allowed) were counted")
    }
    let sure = Set(certain.map(\.base))
    let leaving = Set(possible.lazy.map(\.base).filter { $0 != 0 })
    var sizes: [UInt64: Int] = [:]
    for block in possible where block.base == 0 { sizes[block.size, default: 0] += 1 }
    for allocation in all where !sure.contains(allocation.base) {
      guard let context = segment.context(allocation.context),
        let pc = segment.stack(ofNode: context.node).addresses.first,
        sites.values.contains(where: { pc > $0.start && pc <= $0.end })
      else { continue }
      if leaving.contains(allocation.base) { continue }
      if let left = sizes[allocation.size], left > 0 {
        sizes[allocation.size] = left - 1
      } else {
        differences.add("0x\(String(allocation.base, radix: 16))+\(allocation.size) is no block of the program's")
      }
    }
    return differences
  }
}
