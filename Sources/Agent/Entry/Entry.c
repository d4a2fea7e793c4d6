#include "agent_entry.h"
