// Compiles the static asserts of the layout once for the target.
#include "SharedLayout.h"
