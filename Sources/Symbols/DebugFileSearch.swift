// SPDX-License-Identifier: Apache-2.0
// Where a module's files are, and whether they are the files that were loaded.
//
// Rule: a file counts only if it is proven to be the file that ran. The proof is the build id. For a module without a
// build id it is that device, inode, size and time of change are those that the agent noted, and that the file's
// segments take the mapped addresses. For a debug file without a build id it is the checksum in .gnu_debuglink. No path
// proves anything.
//
// Proof takes a look into the file. Root's worker takes that look only at files that it trusts (TrustedFiles): root's,
// or those that the kernel shows to be executed by the process, and debug files beside them of the same owner.
//
// Candidates, in this order: the path; the path below the process's own root; the executable's link in /proc; the link
// to what is mapped where the module lies; what was held open for later. The links lead to files that were removed,
// replaced, never had a name, or lie in another mount namespace.

import ByteText
import CLibdw
import Glibc

struct DebugFileSearch: Sendable {
  /// Directories laid out like /usr/lib/debug.
  let roots: [String]
  let held: HeldFiles

  /// Bytes of a path, as text, that can lead to a file: each of the system's 4,096 may take four.
  private static let longestPath = 4 * RegularFile.pathLimit

  init(roots: [String], held: HeldFiles = HeldFiles()) {
    self.roots = roots
    self.held = held
  }

  /// The file that was loaded, if it is still there; else why there is none.
  func moduleFile(_ module: ModuleReference) -> Result<ObjectFile, NameLoss> {
    let isPath = module.path.isAbsolutePath && module.path.byteCount <= Self.longestPath
    var loss = isPath ? NameLoss.gone : .noPath
    func check(_ file: ObjectFile?, isMapped: Bool = false) -> ObjectFile? {
      guard let file else { return nil }
      guard let why = Self.loss(of: module, file, isMapped: isMapped) else { return file }
      // The reason that the file at the path gave is the most telling.
      if loss == .gone || loss == .noPath || isMapped { loss = why }
      return nil
    }
    if isPath, !module.isDeleted {
      do throws(RegularFile.Refusal) {
        let file = try RegularFile(path: module.path)
        if !file.isTrusted {
          loss = .untrusted
        } else if let file = check(ObjectFile(file, path: module.path)) {
          return .success(file)
        }
      } catch {
        if error == .system(EACCES) || error == .system(EPERM) { loss = .notPermitted }
      }
    }
    if let process = module.process, let view = ProcessFiles(process) {
      if isPath, !module.isDeleted, let file = check(view.file(atPath: module.path)) { return .success(file) }
      if module.isMain, let file = check(view.executable, isMapped: true) { return .success(file) }
      if let file = check(view.file(mappedAt: module.start), isMapped: true) { return .success(file) }
    }
    if let file = check(held.file(of: module), isMapped: true) { return .success(file) }
    return .failure(loss)
  }

  /// Why `file` is not proven to be the file that `module` was loaded from; nil if it is proven. `isMapped`: the kernel
  /// says that the file is mapped there, so that only its contents may have changed.
  static func loss(of module: ModuleReference, _ file: ObjectFile, isMapped: Bool) -> NameLoss? {
    if let loss = loss(of: module, buildID: file.buildID, file.state, isMapped: isMapped) { return loss }
    return module.buildID.isEmpty && !spanMatches(file, module) ? .otherFile : nil
  }

  /// Bytes of a build id that an index has room for.
  private static let longestBuildID = 32

  static func loss(
    of module: ModuleReference, buildID: [UInt8], _ state: FileState?, isMapped: Bool
  ) -> NameLoss? {
    // The agent notes no longer ones: then the file is proved as if it had none.
    let buildID = buildID.count > longestBuildID && module.buildID.isEmpty ? [] : buildID
    guard buildID == module.buildID else { return .otherFile }
    guard buildID.isEmpty else { return nil }
    guard let state else { return .unproved }
    if let known = module.file {
      if known == state { return nil }
      return known.device == state.device && known.inode == state.inode ? .changed : .otherFile
    }
    guard isMapped, module.notedNanoseconds > 0 else { return .unproved }
    return state.changed <= module.notedNanoseconds ? nil : .changed
  }

  /// The separate debug file of a module. `file` is the module's own, nil if it is gone.
  func debugFile(_ module: ModuleReference, file: ObjectFile?) -> ObjectFile? {
    if let found = byBuildID(module.buildID) { return found }
    guard let file, let link = file.debugLink, !link.name.isEmpty,
      !link.name.unescaped.utf8.contains(UInt8(ascii: "/"))
    else { return nil }
    var places: [ForeignText] = []
    for directory in Set([parent(of: file.path), parent(of: module.path)]) {
      places += ["\(directory)/\(link.name)", "\(directory)/.debug/\(link.name)"]
      places += roots.map { "\($0)\(directory)/\(link.name)" }
    }
    for path in places where path != file.path {
      guard let candidate = ObjectFile(path: path, besideFileOf: file.ownerID) else { continue }
      if candidate.buildID.isEmpty || module.buildID.isEmpty
        ? candidate.checksum() == link.checksum : candidate.buildID == module.buildID
      {
        return candidate
      }
    }
    return nil
  }

  /// The file that `dwz` moved the common part of a debug file's DWARF to. `name` is what .gnu_debugaltlink says.
  func commonDebugFile(name: ForeignText, buildID: [UInt8], referringFile: ObjectFile) -> ObjectFile? {
    if let found = byBuildID(buildID, kind: .common) { return found }
    let path: ForeignText = name.isAbsolutePath ? name : "\(parent(of: referringFile.path))/\(name)"
    guard !buildID.isEmpty,
      let file = ObjectFile(path: path, kind: .common, besideFileOf: referringFile.ownerID), file.buildID == buildID
    else { return nil }
    return file
  }

  /// Where the .dwo file of a unit may be: where it was compiled, below a debug root, beside the program. Its id proves
  /// that it is the right file.
  func splitFilePaths(_ skeleton: Skeleton, objectPaths: [ForeignText]) -> [ForeignText] {
    let file = skeleton.name.fileName
    let compiled = skeleton.path
    var paths: [ForeignText] = compiled.isAbsolutePath ? ([""] + roots).map { "\($0)\(compiled)" } : []
    for path in objectPaths {
      let directory = parent(of: path)
      if !skeleton.name.isAbsolutePath { paths.append("\(directory)/\(skeleton.name)") }
      if file != skeleton.name { paths.append("\(directory)/\(file)") }
    }
    return paths
  }

  /// Where a package of all .dwo files of a module may be.
  func packagePaths(_ objectPaths: [ForeignText]) -> [ForeignText] {
    var paths: [ForeignText] = []
    for path in objectPaths {
      paths.append("\(path).dwp")
      if path.hasSuffix(".debug") { paths.append("\(ForeignText(path.unescaped.dropLast(6))).dwp") }
    }
    for root in roots { paths.append(contentsOf: objectPaths.map { "\(root)\($0).dwp" }) }
    return paths
  }

  private func byBuildID(_ id: [UInt8], kind: ObjectFile.Kind = .module) -> ObjectFile? {
    guard id.count > 1 else { return nil }
    let digits = id.map(\.hexadecimal)
    let name = ".build-id/\(digits[0])/\(digits[1...].joined()).debug"
    for root in roots {
      if let file = ObjectFile(path: "\(root)/\(name)", kind: kind), file.buildID == id { return file }
    }
    return nil
  }

  private static func spanMatches(_ file: ObjectFile, _ module: ModuleReference) -> Bool {
    guard let span = file.loadedSpan else { return false }
    let page: UInt64 = 4096
    let start = module.start &- module.bias
    let end = module.end &- module.bias
    let inPage = page &- 1
    return start & ~inPage == span.start & ~inPage && (end &+ inPage) & ~inPage == (span.end &+ inPage) & ~inPage
  }

  private func parent(of path: ForeignText) -> ForeignText {
    guard let slash = path.unescaped.lastIndex(of: "/") else { return "." }
    return ForeignText(path.unescaped[..<slash])
  }
}
