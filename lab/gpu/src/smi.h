/* What nvidia-smi's displays share: one reading of the card, taken through NVML. */
#ifndef LAB_GPU_SMI_H
#define LAB_GPU_SMI_H

#include "nvml.h"
#include <stdbool.h>

#ifndef SMI_VERSION /* build.py says which */
#define SMI_VERSION "590.48.01"
#endif
#define SMI_MAX_PROCESSES 64

struct card {
    char driver[80], nvml[80], name[96], uuid[96], serial[30], vbios[32];
    int cuda; /* 13010 is 13.1 */
    nvmlPciInfo_t pci;
    nvmlMemory_v2_t memory;
    nvmlUtilization_t load;
    unsigned temperature, fan, pstate, power_mw, limit_mw, default_mw, persistence, compute_mode;
    unsigned sm_clock, memory_clock, ecc_current, ecc_pending, remapped[4];
    bool ecc_supported, errors_counted;
    unsigned long long corrected, uncorrected, event_reasons;
    int capability[2];
    struct { unsigned pid; unsigned long long bytes; char type, name[1024]; } processes[SMI_MAX_PROCESSES];
    unsigned process_count;
};

void print_table(const struct card *card);
void print_long(const struct card *card);
void print_list(const struct card *card);
void print_version(const struct card *card);

struct format { bool header, units; };
/* 0, or nvidia-smi's exit code for a field that it does not know. */
int query_card(const struct card *card, const char *fields, struct format format);
int query_processes(const struct card *card, const char *fields, struct format format);

#endif
