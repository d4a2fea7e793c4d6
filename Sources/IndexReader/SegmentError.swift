// Why a segment can't be read: one case for each thing that a person can do something about, each
// with the file's path.

/// Why a segment could not be opened, or is no longer to be believed.
public enum SegmentError: Error, Hashable, Sendable {
  /// There is no such file.
  case noSuchFile(path: String)
  /// The file exists, but the caller may not open it.
  case notPermitted(path: String)
  /// The file is no segment: it has another magic, is no regular file, or its header contradicts
  /// itself.
  case notASegment(path: String, why: String)
  /// The magic is still zero: the process is about to write the header, or died before it did.
  case halfWritten(path: String)
  /// The file is of a layout version that this build does not read; `known` are the versions that
  /// it reads.
  case otherVersion(path: String, found: UInt32, known: ClosedRange<UInt32>)
  /// The file is shorter than its header says, or than a header is.
  case truncated(path: String, why: String)
  /// The file was cut or overwritten after it was opened: answers since then may be wrong.
  case broken(path: String, why: String)
  /// The process has as many consumers of its events as there can be.
  case occupied(path: String, consumers: Int)
  /// The system refused something else: `why` is its own message.
  case system(path: String, operation: String, why: String)

  /// The path of the file that could not be read.
  public var path: String {
    switch self {
    case .noSuchFile(let path), .notPermitted(let path), .halfWritten(let path): path
    case .notASegment(let path, _), .truncated(let path, _), .broken(let path, _): path
    case .otherVersion(let path, _, _): path
    case .occupied(let path, _): path
    case .system(let path, _, _): path
    }
  }
}

extension SegmentError: CustomStringConvertible {
  /// A message for people: what was attempted, on which file, why it failed — what to do about it.
  public var description: String {
    switch self {
    case .noSuchFile(let path):
      "can't open segment \(path): there is no such file — `allocsctl ps` lists the processes that are indexed"
    case .notPermitted(let path):
      "can't open segment \(path): permission denied — ask as the user who owns the process, or as root"
    case .notASegment(let path, let why):
      "can't read \(path): it is not a segment, \(why) — remove it, and start the process again under the agent"
    case .halfWritten(let path):
      "can't read segment \(path): it is half-written — try again; if that stays so, the process ended while it started"
    case .otherVersion(let path, let found, let known):
      "can't read segment \(path): its layout is version \(found), this build knows \(Self.words(for: known)) — "
        + (found > known.upperBound
          ? "install the allocsctl of that version, which is newer, or start the process again under this one's agent"
          : "its agent is of an older version: start the process again, or use the allocsctl of that version")
    case .truncated(let path, let why):
      "can't read segment \(path): it is cut short, \(why) — the file is damaged; run the process again"
    case .broken(let path, let why):
      "can't go on with segment \(path): \(why) — what it said can't be trusted any more; open it again or run the "
        + "process again"
    case .occupied(let path, let consumers):
      "can't attach to \(path): it has \(consumers) consumers of its events, the most there can be — "
        + "end one of them and try again; those of a server that overwrite (policy=overwrite) share one place"
    case .system(let path, let operation, let why):
      "can't \(operation) \(path): \(why) — free the resource that is short, or raise its limit, and try again"
    }
  }

  private static func words(for versions: ClosedRange<UInt32>) -> String {
    versions.count == 1 ? "version \(versions.upperBound)" : "versions \(versions.lowerBound) to \(versions.upperBound)"
  }
}
