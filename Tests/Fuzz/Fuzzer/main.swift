// SPDX-License-Identifier: Apache-2.0
// FUZZ_TARGET=… allocs-fuzz [libFuzzer's arguments]: searches for an input that a target does not survive.
//
// The target is named by the environment because libFuzzer starts itself anew, with its own arguments, to merge a
// corpus.

import FuzzTargets
import Glibc

/// libFuzzer's own main, for programs that have one already. From its interface FuzzerInterface.h.
@_silgen_name("LLVMFuzzerRunDriver")
private func runFuzzer(
  _ count: UnsafeMutablePointer<CInt>,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ callback: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

guard let name = getenv("FUZZ_TARGET"), let named = FuzzTarget(rawValue: String(cString: name)) else {
  let names = FuzzTarget.allCases.map(\.rawValue).joined(separator: "|")
  let usage = "usage: FUZZ_TARGET=\(names) allocs-fuzz [libFuzzer's options and folders]\n"
  _ = usage.withCString { write(2, $0, strlen($0)) }
  exit(64)
}
nonisolated(unsafe) let target = named
var count = CommandLine.argc
var arguments = CommandLine.unsafeArgv
exit(runFuzzer(&count, &arguments, testOneInput))
