// A segment that several owners read.

import SystemAccess

/// Owns one segment for as long as anyone refers to it; every read of a segment may be made from any thread.
public final class SharedSegment: Sendable {
  public let segment: Segment

  public init(path: String) throws(Complaint) { segment = try Segment(path: path) }

  public init(_ segment: consuming Segment) { self.segment = segment }
}
