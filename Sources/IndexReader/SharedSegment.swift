// SPDX-License-Identifier: Apache-2.0
// A segment that has several owners.

import SystemAccess

/// Owns one segment for as long as anyone refers to it; every read of a segment may be made from
/// any thread.
public final class SharedSegment: Sendable {
  /// The segment.
  public let segment: Segment

  /// Opens the segment at `path`. Throws as `Segment.init(path:)` does.
  public init(path: String) throws(Complaint) { segment = try Segment(path: path) }

  /// Owns `segment` from now on.
  public init(_ segment: consuming Segment) { self.segment = segment }
}
