// SPDX-License-Identifier: Apache-2.0
// The function that libFuzzer calls: its library wants one of this name also where it is handed another.

import FuzzTargets

@_cdecl("LLVMFuzzerTestOneInput")
func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
  target.run(Array(UnsafeBufferPointer(start: data, count: size))[...])
  return 0
}
