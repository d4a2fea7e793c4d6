// SPDX-License-Identifier: Apache-2.0
// Who did something: a context of a process, decoded. The index and a recording number contexts; a block or an event
// refers to its context by that number.

import ByteText
import IndexReader

/// Who allocated a block, or did what an event tells: the function that was called, on which thread, with which call
/// stack, and whose memory it gave out.
public struct Origin: Hashable, Sendable {
  /// The node of the call stack's innermost call in the process's trie of stacks; 0 if no stack is known.
  public var node: UInt32
  /// Slot of the thread table, for `OriginTables.thread(slot:at:)`; nil if the thread had none.
  public var threadSlot: UInt32?
  /// The function that was called, such as `calloc`; nil if not known.
  public var function: ForeignText?
  /// The allocator's name, else the file name of its module, such as `libc.so.6`; nil if neither is known.
  public var allocator: ForeignText?
  /// Path of the module that has the allocator's code; nil if not known, and in a recording of an allocator that has a
  /// name.
  public var allocatorModule: ForeignText?
  /// Tells the allocators of one process apart, of which two may have one name; nil if no allocator is known.
  public var allocatorNumber: UInt32?

  public init(
    node: UInt32, threadSlot: UInt32? = nil, function: ForeignText? = nil, allocator: ForeignText? = nil,
    allocatorModule: ForeignText? = nil, allocatorNumber: UInt32? = nil
  ) {
    self.node = node
    self.threadSlot = threadSlot
    self.function = function
    self.allocator = allocator
    self.allocatorModule = allocatorModule
    self.allocatorNumber = allocatorNumber
  }

  /// The origin that a context of a segment names.
  public init(_ context: Context) {
    self.init(
      node: context.node, threadSlot: context.threadSlot, function: context.function,
      allocator: context.allocator.flatMap { Self.name(of: $0) }, allocatorModule: context.allocator?.module?.path,
      allocatorNumber: context.allocator?.number)
  }

  /// The name that answers give an allocator: its own, else its module's file name.
  package static func name(of allocator: Allocator) -> ForeignText? {
    allocator.name ?? allocator.module?.path.fileName
  }
}
