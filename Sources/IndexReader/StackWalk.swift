// SPDX-License-Identifier: Apache-2.0
// The way along a trie of call stacks: from the node of the innermost call outwards to the root.
// Readers of a segment and readers of a recording both go this way, so that both end a damaged
// stack at the same place.

import SharedLayout

extension Stack {
  /// Calls of a stack that are read at most. The agent records stacks of at most 255 calls
  /// (`ALLOCS_FRAMES_MAX`); only a damaged trie has deeper ones.
  public static let depthLimit = Int(ALLOCS_FRAMES_MAX) + 1

  /// The call stack that ends in `node`, in the trie whose nodes `find` looks up.
  ///
  /// `isAgent` says whether an address lies in the agent's own code. Where a stack was cut, its
  /// last call may be one of the agent's, which the agent leaves out of stacks that are whole; such
  /// a call is left out here as well.
  public init(ofNode node: UInt32, isAgent: (UInt64) -> Bool, _ find: (UInt32) -> StackNode?) {
    self.init(addresses: [], truncation: nil)
    var walk = StackWalk(from: node)
    while let call = walk.next(find) {
      if call.truncation != nil, isAgent(call.pc) { break }
      if call.isInterrupted { interrupted.append(addresses.count) }
      if call.holder != .unsaid, holders.isEmpty {
        holders = Array(repeating: .unsaid, count: addresses.count)
      }
      if call.holder != .unsaid || !holders.isEmpty { holders.append(call.holder) }
      addresses.append(call.pc)
    }
    truncation = walk.truncation
    framesCut = walk.framesCut
  }
}

/// A walk along one stack, one call at a time. It ends at the root, at a call beyond which the
/// stack was cut, or, with the truncation `damaged`, where the trie has a circle, a node outside
/// the table or more than `Stack.depthLimit` calls.
public struct StackWalk {
  /// The id of the node that the last `next` returned; before that, of the node to begin with.
  public private(set) var node: UInt32
  /// Why the calls beyond the last one are missing; nil while the walk is under way, and if none
  /// are.
  public private(set) var truncation: Stack.Truncation?
  /// At least so many calls were cut at the depth limit; nil if none were, or it is not known.
  public private(set) var framesCut: UInt32?
  /// The id of the node that comes next; 0 at the end.
  private var following: UInt32
  /// Calls that the walk has returned.
  private var depth = 0
  /// A node that the walk has passed, chosen anew after each power of two of steps (Brent). If the
  /// walk meets it again, the trie has a circle.
  private var mark: UInt32
  private var nextMarkDepth = 1

  /// A walk that begins with the call of `node`. Node 0 is the root: the empty stack.
  public init(from node: UInt32) {
    self.node = node
    following = node
    mark = node
  }

  /// The next call outwards; nil at the end. `find` looks up a node of the trie.
  public mutating func next(_ find: (UInt32) -> StackNode?) -> StackNode? {
    guard following != 0 else { return nil }
    guard depth < Stack.depthLimit, let call = find(following) else { return end(.damaged) }
    node = following
    depth &+= 1  // below the limit
    if let cut = call.truncation {
      _ = end(cut)
      framesCut = call.framesCut
      return call
    }
    following = call.parent
    if following == mark {
      _ = end(.damaged)
    } else if depth == nextMarkDepth {
      mark = following
      nextMarkDepth &*= 2  // at most twice the limit
    }
    return call
  }

  private mutating func end(_ truncation: Stack.Truncation) -> StackNode? {
    self.truncation = truncation
    following = 0
    return nil
  }
}
