// SPDX-License-Identifier: Apache-2.0
// The address of a call, as a node of the trie of call stacks has it, and the instruction that it means.

import IndexReader
import Symbols

/// Where a call of a stack was made, as far as its node in the trie tells.
public struct CallAddress: Hashable, Sendable {
  /// The return address; if `isExact`, the instruction at which a signal interrupted the program.
  public var pc: UInt64
  /// Whether `pc` is an instruction, not a return address.
  public var isExact: Bool
  /// What the node says of the module that the call lies in.
  public var holder: CallHolder

  public init(pc: UInt64, isExact: Bool = false, holder: CallHolder = .unsaid) {
    self.pc = pc
    self.isExact = isExact
    self.holder = holder
  }

  /// The call of a node of the trie.
  public init(_ node: StackNode) { self.init(pc: node.pc, isExact: node.isInterrupted, holder: node.holder) }

  /// An address in the instruction that makes the call. Of a return address it is the byte below: a call may be the
  /// last instruction of its function, and of its module.
  public var instruction: UInt64 { isExact ? pc : pc &- 1 }

  /// Why a call without a module has no name; nil if the node gives no reason.
  public var loss: NameLoss? {
    switch holder {
    case .dropped: .noRoom
    case .forgotten: .forgotten
    case .unsaid, .none, .module: nil
    }
  }
}

extension Symbolizer {
  /// The functions at a call, innermost inlined one first, each with the call's own address: at least one frame, which
  /// has no function if none is known. `isFinal` is false if the module's file was not there, and may be some seconds
  /// later.
  public func functions(at call: CallAddress, in module: ModuleReference) -> (frames: [Frame], isFinal: Bool) {
    var (frames, isFinal) = lookup(returnAddress: call.instruction &+ 1, in: module)
    if call.isExact { for index in frames.indices { frames[index].pc = call.pc } }
    return (frames, isFinal)
  }
}
