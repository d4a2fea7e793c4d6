// Who did it: contexts, stacks, threads and modules of a process, whether they come from its segment or from a
// recording.

import Answers
import IndexReader
import SharedLayout
import Symbols

/// A context as a recording keeps it.
public struct RecordedContext: Hashable, Sendable {
  public var node: UInt32
  public var threadSlot: UInt32?
  /// The function that was called.
  public var function: String?
  /// Whose memory it is: an allocator's name, or the path of its module.
  public var allocator: String?
}

/// The tables that events refer to.
public protocol OriginTables: AnyObject {
  func context(_ id: UInt32) -> RecordedContext?
  func node(_ id: UInt32) -> StackNode?
  func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity?
  /// Functions at an address of a stack, innermost inlined one first; at least one frame.
  func frames(pc: UInt64, isExact: Bool, at ticks: UInt32, in holder: CallHolder) -> [Frame]
}

extension OriginTables {
  /// The nodes of a stack, innermost first. A trie that leads in a circle ends.
  public func nodes(from node: UInt32) -> [StackNode] {
    var nodes: [StackNode] = []
    var next = node
    while next != 0, nodes.count < 1 << 12, let entry = self.node(next) {
      nodes.append(entry)
      if entry.truncation != nil { break }
      next = entry.parent
    }
    return nodes
  }

  public func stack(of context: UInt32, at ticks: UInt32) -> [Frame] {
    guard let context = self.context(context) else { return [] }
    return nodes(from: context.node).flatMap { frames(pc: $0.pc, isExact: $0.isInterrupted, at: ticks, in: $0.holder) }
  }
}

/// The tables of a process's segment.
public final class SegmentOrigins: OriginTables {
  public let shared: SharedSegment
  private let symbolizer: Symbolizer

  public init(_ shared: SharedSegment, symbolizer: Symbolizer = Symbolizer()) {
    self.shared = shared
    self.symbolizer = symbolizer
  }

  public func context(_ id: UInt32) -> RecordedContext? { shared.segment.context(id).map { RecordedContext($0) } }
  public func node(_ id: UInt32) -> StackNode? { shared.segment.node(id) }
  public func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity? {
    shared.segment.thread(slot: slot, at: ticks)
  }
  public func frames(pc: UInt64, isExact: Bool, at ticks: UInt32, in holder: CallHolder) -> [Frame] {
    let module = shared.segment.module(of: holder, containing: isExact ? pc : pc &- 1, at: ticks)
    return symbolizer.frames(
      pc: pc, isExact: isExact, in: module.map { ModuleReference($0, in: shared.segment) })
  }
}

extension RecordedContext {
  init(_ context: Context) {
    node = context.node
    threadSlot = context.threadSlot
    function = context.function
    allocator = context.allocator.flatMap { $0.name ?? $0.module?.path }
  }
}

extension Symbolizer {
  /// `isExact`: `pc` is an instruction, not a return address.
  func frames(pc: UInt64, isExact: Bool, in reference: ModuleReference?) -> [Frame] {
    guard let reference else { return [Frame(pc: pc, module: nil)] }
    // What is looked up is the instruction before a return address.
    let (address, overflow) = isExact ? pc.addingReportingOverflow(1) : (pc, false)
    var frames = frames(returnAddress: overflow ? pc : address, in: reference)
    for index in frames.indices { frames[index].pc = pc }
    return frames
  }
}
