/* What the stand-in card says of itself, and which fault is planted. Read anew at each call, so that a change shows at once. */
#ifndef LAB_GPU_STATE_H
#define LAB_GPU_STATE_H

#include <stdbool.h>
#include <stddef.h>

#ifndef LIBRARY_VERSION /* build.py says which */
#define LIBRARY_VERSION "590.48.01"
#define LIBRARY_BRANCH "r590_00"
#endif
#define MAX_PROCESSES 64
#define MIB (1024ULL * 1024ULL)
#define UNKNOWN_MEMORY (~0ULL)

enum fault { NONE, MISMATCH, NO_DEVICE, NO_DRIVER, LOST, UNKNOWN, HANG };

struct gpu_process {
    unsigned pid;
    unsigned long long bytes; /* UNKNOWN_MEMORY: the driver cannot tell */
    bool graphics;
};

struct gpu_state {
    char name[96], uuid[96], serial[30], vbios[32], bus_id[32], driver[80], cuda[16], pstate[8], ecc[8];
    unsigned total_mib, reserved_mib, used_mib;
    unsigned temperature, fan, power_mw, power_limit_mw, power_default_mw;
    unsigned utilization, memory_utilization, sm_clock, memory_clock;
    unsigned persistence, compute_mode, services;
    unsigned remapped_correctable, remapped_uncorrectable, remap_pending, remap_failure;
    unsigned long long ecc_corrected, ecc_uncorrected, event_reasons;
    struct gpu_process processes[MAX_PROCESSES];
    size_t process_count;
};

/* The planted fault. A container's own (/run/lab/self, /etc/lab) comes before the host's. */
enum fault current_fault(void);

/* Defaults, then <directory>/gpu.conf (key=value lines), then what the stand-in services hold on the card. */
void read_state(struct gpu_state *state);

#endif
