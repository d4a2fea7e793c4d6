// SPDX-License-Identifier: Apache-2.0
// A call stack with names.

import IndexReader
import Symbols

/// A call stack with names, and which of its frames is the allocation site.
public struct NamedStack: Hashable, Sendable {
  /// Innermost first. A call into which others were inlined has several frames.
  public var frames: [Frame]
  /// Indices in `frames` of the frames that a signal interrupted. The address of such a frame is an
  /// instruction's, not a return address.
  public var interrupted: [Int]
  /// Index in `frames` of the allocation site; nil if there is no frame.
  public var siteIndex: Int?
  /// Why calls beyond the last frame are missing; nil if none are.
  public var truncation: Stack.Truncation?
  /// At least so many calls were cut at the depth limit; nil if none were, or it is not known.
  public var framesCut: UInt32?

  public init(
    frames: [Frame], interrupted: [Int], siteIndex: Int?, truncation: Stack.Truncation?, framesCut: UInt32?
  ) {
    self.frames = frames
    self.interrupted = interrupted
    self.siteIndex = siteIndex
    self.truncation = truncation
    self.framesCut = framesCut
  }

  /// The frame that the allocation is attributed to; nil if there is none.
  public var site: Frame? {
    guard let siteIndex, frames.indices.contains(siteIndex) else { return nil }
    return frames[siteIndex]
  }
}
