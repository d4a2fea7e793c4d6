// SPDX-License-Identifier: Apache-2.0
// The suite of all end-to-end tests. They run one after the other: each starts programs with several threads of their
// own, and some of them (a full file system, many processes) concern the whole machine.

import TestSupport
import Testing

@Suite("end to end", .serialized, .bounded)
enum EndToEnd {}
