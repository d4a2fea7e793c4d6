// SPDX-License-Identifier: Apache-2.0
// Everything that is asked of a module's file, of files that DWARFGenerator makes up.

import Bounds
import Glibc
import Symbols

enum DWARFFuzz {
  /// A file in memory without a name, whose contents are replaced for each run.
  private static let file: Int32 = {
    let path = "/dev/shm/dwarf-\(getpid()).fuzz"
    let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    unlink(path)
    return descriptor
  }()
  private static let bias: UInt64 = 0x7000_0000_0000

  static func run(_ bytes: ArraySlice<UInt8>) {
    var generator = DWARFGenerator(bytes)
    let contents = generator.file()
    guard file >= 0, ftruncate(file, 0) == 0,
      contents.withUnsafeBytes({ pwrite(file, $0.baseAddress, $0.count, 0) }) == contents.count
    else { return }
    var status = stat()
    guard fstat(file, &status) == 0 else { return }
    // Proved as the very file, whatever is in it; one with a build id is proved by that.
    let path = "/proc/self/fd/\(file)"
    var module = ModuleReference(
      path: ForeignText(path), buildID: [], start: bias, end: bias + 0x3000, bias: bias, file: FileState(status))
    module.buildID = ELFFile(ELFBytes(contents))?.buildID ?? []
    // A symbolizer keeps what it found: each file needs a new one.
    let symbolizer = Symbolizer(debugRoots: [])
    // Time that no file of some kilobytes may take is a failure by the fuzzer's own limit.
    try? Budget(seconds: 60, bytes: 1 << 30).run { ask(symbolizer, module) }
    for names in [Set(["a1", "f0"]), []] {
      _ = ModuleFile(path: ForeignText(path))?.functions(named: names, exported: false)
    }
    _ = ModuleFile(path: ForeignText(path))?.interpreter
  }

  private static func ask(_ symbolizer: Symbolizer, _ module: ModuleReference) {
    let registers = FrameRegisters(cfa: 0x7FFF_0000, stackPointer: .max, framePointer: 1 << 63)
    for offset in stride(from: UInt64(0x1000), to: 0x2010, by: 0xF8) {
      for frame in symbolizer.frames(returnAddress: bias + offset + 1, in: module) { _ = frame.placeName }
      _ = symbolizer.staticSymbol(at: bias + offset, in: module)
      _ = symbolizer.variable(at: bias + offset, in: module)
      for memory: UInt64 in [0x7FFF_0000, .max, 0, 1 << 63] {
        _ = symbolizer.local(at: memory, executing: bias + offset, registers, in: module)
      }
    }
    for offset: UInt64 in [0, 8, 1 << 31, 1 << 63 - 1] {
      _ = symbolizer.threadLocalVariable(atOffset: offset, in: module)
      _ = symbolizer.threadLocalSymbol(atOffset: offset, in: module)
    }
    _ = symbolizer.variable(at: bias + 0x2800, in: module)
    _ = symbolizer.variableProblem(in: module)
  }
}
