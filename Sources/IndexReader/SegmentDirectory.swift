// Where segments lie.

/// A segment file, found by its name; not opened.
public struct SegmentFile: Hashable, Sendable {
  public var processID: Int32
  /// Clock ticks since boot, field 22 of /proc/PID/stat.
  public var startTime: UInt64
  public var path: String
  /// Whether the process with this id and start time runs.
  public var isLive: Bool
  /// Owner of the file.
  public var ownerID: UInt32
  /// Bytes that it takes, holes left out.
  public var allocatedBytes: UInt64
  /// Seconds since 1970-01-01 UTC.
  public var modified: Double
}

public enum SegmentDirectory {
  /// $ALLOCS_DIR if set, else /run/allocs and /dev/shm/allocs. They need not exist.
  public static var searchPaths: [String] { [] }
  /// All segment files, by process id, then start time.
  public static func list(in directories: [String]? = nil) -> [SegmentFile] { [] }
  /// The file of the live process `pid`; else the newest of a dead one; else nil.
  public static func find(processID: Int32, in directories: [String]? = nil) -> SegmentFile? { nil }
}
