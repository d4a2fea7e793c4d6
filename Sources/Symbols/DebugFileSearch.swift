// Where a module's files are, and whether they are the ones that were loaded.
//
// Rule: a file counts only if it is proven to be of the same build. The proof is the build id; for a module without
// one, that its segments take exactly the mapped addresses; for a debug file without one, the checksum in
// .gnu_debuglink.

import CLibdw

struct DebugFileSearch: Sendable {
  /// Directories laid out like /usr/lib/debug.
  let roots: [String]

  /// The file that was loaded, if it is still there.
  func moduleFile(_ module: ModuleReference) -> ObjectFile? {
    guard module.path.utf8.first == UInt8(ascii: "/"), let file = ObjectFile(path: module.path) else { return nil }
    guard file.buildID == module.buildID else { return nil }
    if module.buildID.isEmpty, !spanMatches(file, module) { return nil }
    return file
  }

  /// The separate debug file of a module. `file` is the module's own, nil if it is gone.
  func debugFile(_ module: ModuleReference, file: ObjectFile?) -> ObjectFile? {
    if let found = byBuildID(module.buildID) { return found }
    guard let file, let link = file.debugLink, !link.name.isEmpty, !link.name.utf8.contains(UInt8(ascii: "/")) else {
      return nil
    }
    let directory = parent(of: file.path)
    let places = ["\(directory)/\(link.name)", "\(directory)/.debug/\(link.name)"]
    for path in places + roots.map({ "\($0)\(directory)/\(link.name)" }) where path != file.path {
      guard let candidate = ObjectFile(path: path) else { continue }
      if candidate.buildID.isEmpty || module.buildID.isEmpty
        ? candidate.checksum() == link.checksum : candidate.buildID == module.buildID
      {
        return candidate
      }
    }
    return nil
  }

  /// The file that `dwz` moved the common part of a debug file's DWARF to. `name` is what .gnu_debugaltlink says.
  func commonDebugFile(name: String, buildID: [UInt8], referringFile: ObjectFile) -> ObjectFile? {
    if let found = byBuildID(buildID, kind: .common) { return found }
    let path = name.utf8.first == UInt8(ascii: "/") ? name : "\(parent(of: referringFile.path))/\(name)"
    guard let file = ObjectFile(path: path, kind: .common), !buildID.isEmpty, file.buildID == buildID else {
      return nil
    }
    return file
  }

  /// Where the .dwo file of a unit may be: where it was compiled, below a debug root, beside the program. What proves that
  /// it is the right one is its id.
  func splitFilePaths(_ skeleton: Skeleton, objectPaths: [String]) -> [String] {
    let file = skeleton.name.split(separator: "/").last.map { String($0) } ?? skeleton.name
    let compiled = skeleton.path
    var paths = compiled.utf8.first == UInt8(ascii: "/") ? [compiled] + roots.map { $0 + compiled } : []
    for path in objectPaths {
      let directory = parent(of: path)
      if skeleton.name.utf8.first != UInt8(ascii: "/") { paths.append("\(directory)/\(skeleton.name)") }
      if file != skeleton.name { paths.append("\(directory)/\(file)") }
    }
    return paths
  }

  /// Where a package of all .dwo files of a module may be.
  func packagePaths(_ objectPaths: [String]) -> [String] {
    var paths: [String] = []
    for path in objectPaths {
      paths.append("\(path).dwp")
      if path.hasSuffix(".debug") { paths.append("\(path.dropLast(6)).dwp") }
    }
    return paths + roots.flatMap { root in objectPaths.map { "\(root)\($0).dwp" } }
  }

  private func byBuildID(_ id: [UInt8], kind: ObjectFile.Kind = .module) -> ObjectFile? {
    guard id.count > 1 else { return nil }
    let digits = id.map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }
    let name = ".build-id/\(digits[0])/\(digits[1...].joined()).debug"
    for root in roots {
      if let file = ObjectFile(path: "\(root)/\(name)", kind: kind), file.buildID == id { return file }
    }
    return nil
  }

  private func spanMatches(_ file: ObjectFile, _ module: ModuleReference) -> Bool {
    guard let span = file.loadedSpan else { return false }
    let page: UInt64 = 4096
    let start = module.start &- module.bias
    let end = module.end &- module.bias
    return start & ~(page - 1) == span.start & ~(page - 1)
      && (end &+ page - 1) & ~(page - 1) == (span.end &+ page - 1) & ~(page - 1)
  }

  private func parent(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return String(path[..<slash])
  }
}
