#include "MappingGuard.h"
