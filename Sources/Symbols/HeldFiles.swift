// SPDX-License-Identifier: Apache-2.0
// Files to which no path leads, held open for the time after their process: a removed executable, a library that was
// upgraded, memory that was loaded as a library, files of another mount namespace. Each takes a descriptor, so there
// are at most `limit` of them.

import ByteText
import FileFacts
import Synchronization

/// Files of modules, by the proofs of the files. Thread-safe.
public final class HeldFiles: Sendable {
  private final class Held: Sendable {
    let file: RegularFile
    let path: ForeignText
    init(_ file: consuming RegularFile, path: ForeignText) {
      self.file = file
      self.path = path
    }
  }

  private struct State {
    var limit: Int
    var files: [Key: Held] = [:]
    /// The segments whose modules they are.
    var owners: [Key: Set<String>] = [:]
    var refused: UInt64 = 0
    /// Files that were found at their paths, and proved, as they were then: most processes have the same ones.
    var proved: [Key: FileState] = [:]
  }

  /// Of `proved`; beyond it they are forgotten all at once.
  private static let provedLimit = 16_384
  /// Bytes of a path that is kept in `proved`.
  private static let longestProvedPath = 4096

  /// A module apart from where it lies and in which process.
  private struct Key: Hashable {
    var path: ForeignText
    var buildID: [UInt8]
    var file: FileState?
    var noted: UInt64

    init(_ module: ModuleReference) {
      path = module.path
      buildID = module.buildID
      file = module.file
      // A file that nothing else proves is proved by its module's process alone.
      noted = buildID.isEmpty && file == nil ? module.notedNanoseconds : 0
    }
  }

  private let state: Mutex<State>

  public init(limit: Int = 0) { state = Mutex(State(limit: limit)) }

  /// How many files may be held from now on.
  public func setLimit(_ limit: Int) { state.withLock { $0.limit = limit } }

  /// Files held, and files that found no room.
  public var counts: (held: Int, refused: UInt64) { state.withLock { ($0.files.count, $0.refused) } }

  /// Holds the module's file for `owner`, a segment, if no path leads to it and its process still shows it. Whether it
  /// is, or need not be.
  @discardableResult
  public func hold(_ module: ModuleReference, for owner: String) -> Bool {
    let key = Key(module)
    let isKnown = state.withLock { state in
      guard state.files[key] != nil else { return false }
      state.owners[key, default: []].insert(owner)
      return true
    }
    if isKnown { return true }
    let present = FileState(ofPath: module.path)
    if let present, state.withLock({ $0.proved[key] }) == present { return true }
    var plain = module
    plain.process = nil
    let search = DebugFileSearch(roots: [])
    if case .success(let file) = search.moduleFile(plain) {
      // A longer path is looked at anew each time.
      guard module.path.byteCount <= Self.longestProvedPath else { return true }
      state.withLock { state in
        if state.proved.count >= Self.provedLimit { state.proved.removeAll() }
        state.proved[key] = file.state
      }
      return true
    }
    guard case .success(let found) = search.moduleFile(module), let file = found.duplicate() else { return false }
    let held = Held(file, path: found.path)
    return state.withLock { state in
      guard state.files.count < state.limit else {
        state.refused &+= 1
        return false
      }
      state.files[key] = held
      state.owners[key, default: []].insert(owner)
      return true
    }
  }

  /// Lets go of what is held for nobody but owners that are gone.
  public func release(where isGone: (String) -> Bool) {
    // Closed after the lock.
    var released: [Held] = []
    state.withLock { state in
      for (key, owners) in state.owners {
        let rest = owners.filter { !isGone($0) }
        state.owners[key] = rest.isEmpty ? nil : rest
        if rest.isEmpty, let held = state.files.removeValue(forKey: key) { released.append(held) }
      }
    }
    released.removeAll()
  }

  func file(of module: ModuleReference) -> ObjectFile? {
    let held = state.withLock { $0.files[Key(module)] }
    guard let held, let file = held.file.duplicate() else { return nil }
    return ObjectFile(file, path: held.path)
  }
}
