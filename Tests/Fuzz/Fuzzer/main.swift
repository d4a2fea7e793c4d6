// allocs-fuzz TARGET [libFuzzer's arguments]: searches for an input that a target does not survive.

import FuzzTargets
import Glibc

/// libFuzzer's own main, for programs that have one already. From its interface FuzzerInterface.h.
@_silgen_name("LLVMFuzzerRunDriver")
private func runFuzzer(
  _ count: UnsafeMutablePointer<CInt>,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ callback: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

guard CommandLine.arguments.count > 1, let named = FuzzTarget(rawValue: CommandLine.arguments[1]) else {
  let names = FuzzTarget.allCases.map(\.rawValue).joined(separator: "|")
  let usage = "usage: allocs-fuzz \(names) [libFuzzer's options and folders]\n"
  _ = usage.withCString { write(2, $0, strlen($0)) }
  exit(64)
}
nonisolated(unsafe) let target = named
var count = CommandLine.argc - 1
var arguments = CommandLine.unsafeArgv + 1
exit(runFuzzer(&count, &arguments, testOneInput))
