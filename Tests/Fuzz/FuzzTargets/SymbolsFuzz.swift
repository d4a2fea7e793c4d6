// SPDX-License-Identifier: Apache-2.0
// Bytes taken for a name of D, and for the lines of a perf-PID.map; and taken for an ELF file; or, behind a first byte
// of 2 or 3 and a length, for two: the other one is half.dwo beside it, or its package of split debug information.

import Glibc
import Symbols

enum SymbolsFuzz {
  private static let folder = "/dev/shm/symbols-\(getpid()).fuzz"
  private static let path = "\(folder)/program"

  static func run(_ bytes: ArraySlice<UInt8>) {
    // Names of D, and the lines in which a process names code that it has made.
    _ = demangled(ForeignText("_D" + String(decoding: bytes.prefix(1 << 14), as: UTF8.self)))
    _ = CodeMap.name(at: 0x1234, in: Array(bytes))
    mkdir(folder, 0o700)
    var program = bytes
    var paths = [path]
    if let first = bytes.first, first == 2 || first == 3, bytes.count > 5 {
      let length = bytes.dropFirst().prefix(4).reversed().reduce(0) { $0 << 8 | Int($1) }
      program = bytes.dropFirst(5).prefix(length)
      paths.append(first == 2 ? "\(folder)/half.dwo" : "\(path).dwp")
      guard write(bytes.dropFirst(5).dropFirst(length), to: paths[1]) else { return }
    }
    defer {
      for path in paths { unlink(path) }
      rmdir(folder)
    }
    guard write(program, to: path) else { return }
    // A symbolizer keeps what it found: each file needs a new one.
    let symbolizer = Symbolizer(debugRoots: [])
    let bias: UInt64 = 0x7000_0000_0000
    // Proved, whatever is in it: as the very file, or, should it have a build id, by that.
    var status = stat()
    guard stat(path, &status) == 0 else { return }
    let module = ModuleReference(
      path: ForeignText(path), buildID: [], start: bias, end: bias + 0x10_0000, bias: bias, file: FileState(status))
    for offset in stride(from: UInt64(0x10), to: 0x5000, by: 0x171) {
      _ = symbolizer.frames(returnAddress: bias + offset, in: module)
      _ = symbolizer.staticSymbol(at: bias + offset, in: module)
    }
    for offset in stride(from: UInt64(0x1000), to: 0x3000, by: 0x208) {
      _ = symbolizer.variable(at: bias + offset, in: module)
    }
    _ = symbolizer.variableProblem(in: module)
  }

  private static func write(_ bytes: ArraySlice<UInt8>, to path: String) -> Bool {
    let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { return false }
    bytes.withUnsafeBytes { _ = Glibc.write(descriptor, $0.baseAddress, $0.count) }
    close(descriptor)
    return true
  }
}
