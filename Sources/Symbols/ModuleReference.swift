// SPDX-License-Identifier: Apache-2.0
// A module as the index has it: enough to find its file again, and to be sure that it is the file that was loaded.

@_exported import ByteText
@_exported import FileFacts

/// A loaded executable or shared object.
public struct ModuleReference: Hashable, Sendable {
  /// Path of the file that was mapped, by its bytes (ByteText). Anything that isn't an absolute path, such as the name
  /// of the vdso, leads to no file.
  public var path: ForeignText
  /// The GNU build id, empty if the module has none.
  public var buildID: [UInt8]
  /// Lowest mapped address.
  public var start: UInt64
  /// One past the highest mapped address.
  public var end: UInt64
  /// The number that is added to an address in the ELF file to get the mapped address.
  public var bias: UInt64
  /// The file that was mapped, as it was then; nil if that is not known. It proves nothing where there is a build id.
  public var file: FileState?
  /// Nanoseconds since 1970-01-01 UTC: a file that was mapped then, and not changed since, is the file that ran; 0 if
  /// not known.
  public var notedNanoseconds: UInt64
  /// The path did not lead to the file any more when the module was noted.
  public var isDeleted: Bool
  /// The executable.
  public var isMain: Bool
  /// The process that has it mapped, if it may still run: by it, files are found that no path leads to.
  public var process: Process?

  /// A process, by what tells it from a later one of its id.
  public struct Process: Hashable, Sendable {
    public var id: Int32
    /// Clock ticks since boot, field 22 of /proc/PID/stat, as it reads for the caller.
    public var startTime: UInt64
    /// The user that it belongs to. Files that it has mapped and that this user may not read are not read for others.
    public var ownerID: UInt32

    public init(id: Int32, startTime: UInt64, ownerID: UInt32) {
      self.id = id
      self.startTime = startTime
      self.ownerID = ownerID
    }
  }

  public init(
    path: ForeignText, buildID: [UInt8], start: UInt64, end: UInt64, bias: UInt64,
    file: FileState? = nil, notedNanoseconds: UInt64 = 0, isDeleted: Bool = false, isMain: Bool = false,
    process: Process? = nil
  ) {
    self.path = path
    self.buildID = buildID
    self.start = start
    self.end = end
    self.bias = bias
    self.file = file
    self.notedNanoseconds = notedNanoseconds
    self.isDeleted = isDeleted
    self.isMain = isMain
    self.process = process
  }
}

/// Why the functions of a module have no names, other than that its file has none.
public enum NameLoss: String, Error, Hashable, Sendable {
  /// No file was found at its path, nor elsewhere.
  case gone = "its file is gone"
  /// Another file is at its path.
  case otherFile = "the file at its path is another one"
  /// It is the file, but not what was in it.
  case changed = "its file was changed after it was loaded"
  /// It has no build id, and the agent could not learn which file it was.
  case unproved = "it has no build id, and nothing else proves which file it was"
  /// It is known by a name that is no absolute path.
  case noPath = "the path of its file is not known"
  /// There is a file, which may not be read.
  case notPermitted = "its file may not be read"
  /// There is a file, which is not root's, and root's worker doesn't take it apart: see TrustedFiles.
  case untrusted = "its file is not root's alone, and no process of root's is seen to run it"
  /// The agent could not note the module.
  case noRoom = "it found no room in the index's table of modules"
  /// It was noted, but other modules needed the room.
  case forgotten = "it was unloaded, and its place in the index's table of modules is another's"
}
