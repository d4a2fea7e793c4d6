// SPDX-License-Identifier: Apache-2.0
// Which processes `ps` lists, and in which order.

/// The order of a list of processes; the first of equals is that with the lower process id.
public enum ProcessOrder: String, CaseIterable, Sendable {
  case pid
  /// The youngest first.
  case start
  /// The processes that run first, then the ones that ended last.
  case end
  /// By the memory that the index takes, most first.
  case index
  /// By live blocks, most first.
  case blocks
  /// By live bytes, most first. They are counted for this order alone, as that is a look at every block.
  case bytes
  /// By blocks that are not in the index, most first.
  case lost
  case command

  func precedes(_ a: IndexedProcess, _ b: IndexedProcess) -> Bool {
    switch self {
    case .pid: break
    case .start where a.started != b.started: return a.started ?? 0 > b.started ?? 0
    case .end where a.endOrder != b.endOrder: return a.endOrder > b.endOrder
    case .index where a.segmentBytes != b.segmentBytes: return a.segmentBytes > b.segmentBytes
    case .blocks where a.liveBlocks != b.liveBlocks: return a.liveBlocks ?? 0 > b.liveBlocks ?? 0
    case .bytes where a.liveBytes != b.liveBytes: return a.liveBytes ?? 0 > b.liveBytes ?? 0
    case .lost where a.lostBlocks != b.lostBlocks: return a.lostBlocks ?? 0 > b.lostBlocks ?? 0
    case .command where a.commandLine != b.commandLine: return a.commandLine < b.commandLine
    case .start, .end, .index, .blocks, .bytes, .lost, .command: break
    }
    return (a.processID, a.startTime) < (b.processID, b.startTime)
  }
}

/// Which processes a list has, and in which order.
public struct ProcessSelection: Hashable, Sendable {
  public var isLiveOnly: Bool
  /// Nil: by process id; in text, the live ones first.
  public var order: ProcessOrder?

  public init(isLiveOnly: Bool = false, order: ProcessOrder? = nil) {
    self.isLiveOnly = isLiveOnly
    self.order = order
  }

  var countsBytes: Bool { order == .bytes }
}

extension IndexedProcess {
  /// The time of the end; later than any, of a process that runs.
  fileprivate var endOrder: Double { state == .live ? .infinity : ended ?? 0 }
}
