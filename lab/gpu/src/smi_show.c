/* nvidia-smi's table, -L, -q and --version, in the layout of the 590 series. */
#include "smi.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define MIB (1024ULL * 1024ULL)
#define RULE "-----------------------------------------------------------------------------------------"
#define CELLS "+-----------------------------------------+------------------------+----------------------+\n"

static const char *const compute_modes[] = {"Default", "E. Thread", "Prohibited", "E. Process"};

static void now(char *text, size_t size)
{
    time_t seconds = time(NULL);
    strftime(text, size, "%a %b %e %H:%M:%S %Y", localtime(&seconds));
}

static void cuda_text(const struct card *c, char *text, size_t size)
{
    snprintf(text, size, "%d.%d", c->cuda / 1000, c->cuda % 1000 / 10);
}

static unsigned mib(unsigned long long bytes) { return (unsigned)(bytes / MIB); }

static void print_processes(const struct card *c)
{
    printf("+%s+\n", RULE);
    printf("| Processes:                                                                              |\n");
    printf("|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |\n");
    printf("|        ID   ID                                                               Usage      |\n");
    printf("|=========================================================================================|\n");
    for (unsigned i = 0; i < c->process_count; i++) {
        char used[16] = "N/A", name[40];
        size_t length = strlen(c->processes[i].name);
        if (c->processes[i].bytes != ~0ULL)
            snprintf(used, sizeof used, "%uMiB", mib(c->processes[i].bytes));
        if (length > 36) /* long paths keep their end */
            snprintf(name, sizeof name, "...%s", c->processes[i].name + length - 33);
        else
            snprintf(name, sizeof name, "%s", c->processes[i].name);
        printf("|    0   N/A  N/A%16u      %c   %-36s%10s |\n", c->processes[i].pid, c->processes[i].type, name, used);
    }
    if (!c->process_count)
        printf("|  No running processes found                                                             |\n");
    printf("+%s+\n", RULE);
}

void print_table(const struct card *c)
{
    char date[64], cuda[16], name[32], ecc[24] = "N/A";
    now(date, sizeof date);
    cuda_text(c, cuda, sizeof cuda);
    snprintf(name, sizeof name, strlen(c->name) > 27 ? "%.24s..." : "%s", c->name);
    if (c->ecc_supported)
        strcpy(ecc, "Off");
    if (c->errors_counted)
        snprintf(ecc, sizeof ecc, "%llu", c->uncorrected);
    printf("%s       \n+%s+\n", date, RULE);
    printf("| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %-8s |\n", SMI_VERSION, c->driver, cuda);
    printf("%s", CELLS);
    printf("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |\n");
    printf("| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |\n");
    printf("|                                         |                        |               MIG M. |\n");
    printf("|=========================================+========================+======================|\n");
    printf("|   0  %-27s    %-4s|   %s Off |%21s |\n", name, c->persistence ? "On" : "Off", c->pci.busId, ecc);
    printf("|%3u%%%5uC%5s%u%15uW / %4uW |%8uMiB / %6uMiB |%7u%%%13s |\n", c->fan, c->temperature, "P", c->pstate,
           c->power_mw / 1000, c->limit_mw / 1000, mib(c->memory.used), mib(c->memory.total), c->load.gpu,
           compute_modes[c->compute_mode % 4]);
    printf("|                                         |                        |                  N/A |\n%s\n", CELLS);
    print_processes(c);
}

static void line(int depth, const char *label, const char *value)
{
    printf("%*s%-*s: %s\n", depth * 4, "", 55 - depth * 4, label, value);
}

static void line_number(int depth, const char *label, unsigned long long value, const char *unit)
{
    char text[64];
    snprintf(text, sizeof text, "%llu%s%s", value, *unit ? " " : "", unit);
    line(depth, label, text);
}

static void line_watts(int depth, const char *label, unsigned milliwatts)
{
    char text[32];
    snprintf(text, sizeof text, "%u.%02u W", milliwatts / 1000, milliwatts % 1000 / 10);
    line(depth, label, text);
}

static void print_health(const struct card *c)
{
    printf("    ECC Mode\n");
    line(2, "Current", !c->ecc_supported ? "N/A" : c->ecc_current ? "Enabled" : "Disabled");
    line(2, "Pending", !c->ecc_supported ? "N/A" : c->ecc_pending ? "Enabled" : "Disabled");
    printf("    ECC Errors\n        Volatile\n");
    if (c->errors_counted) {
        line_number(3, "DRAM Correctable", c->corrected, "");
        line_number(3, "DRAM Uncorrectable", c->uncorrected, "");
    } else {
        line(3, "DRAM Correctable", "N/A");
        line(3, "DRAM Uncorrectable", "N/A");
    }
    printf("    Remapped Rows\n");
    line_number(2, "Correctable Error", c->remapped[0], "");
    line_number(2, "Uncorrectable Error", c->remapped[1], "");
    line(2, "Pending", c->remapped[2] ? "Yes" : "No");
    line(2, "Remapping Failure Occurred", c->remapped[3] ? "Yes" : "No");
}

static void print_load(const struct card *c)
{
    printf("    Utilization\n");
    line_number(2, "GPU", c->load.gpu, "%");
    line_number(2, "Memory", c->load.memory, "%");
    print_health(c);
    printf("    Temperature\n");
    line_number(2, "GPU Current Temp", c->temperature, "C");
    printf("    GPU Power Readings\n");
    line_watts(2, "Average Power Draw", c->power_mw);
    line_watts(2, "Current Power Limit", c->limit_mw);
    line_watts(2, "Default Power Limit", c->default_mw);
    printf("    Clocks\n");
    line_number(2, "SM", c->sm_clock, "MHz");
    line_number(2, "Memory", c->memory_clock, "MHz");
}

void print_long(const struct card *c)
{
    char date[64], cuda[16], text[32];
    now(date, sizeof date);
    cuda_text(c, cuda, sizeof cuda);
    printf("\n==============NVSMI LOG==============\n\n");
    line(0, "Timestamp", date);
    line(0, "Driver Version", c->driver);
    line(0, "CUDA Version", cuda);
    printf("\n");
    line(0, "Attached GPUs", "1");
    printf("GPU %s\n", c->pci.busId);
    line(1, "Product Name", c->name);
    line(1, "Product Brand", "NVIDIA RTX");
    line(1, "Product Architecture", "Ada Lovelace");
    line(1, "Display Active", "Disabled");
    line(1, "Persistence Mode", c->persistence ? "Enabled" : "Disabled");
    line(1, "Serial Number", c->serial);
    line(1, "GPU UUID", c->uuid);
    line(1, "VBIOS Version", c->vbios);
    printf("    PCI\n");
    snprintf(text, sizeof text, "0x%08X", c->pci.pciDeviceId);
    line(2, "Device Id", text);
    line(2, "Bus Id", c->pci.busId);
    line_number(1, "Fan Speed", c->fan, "%");
    snprintf(text, sizeof text, "P%u", c->pstate);
    line(1, "Performance State", text);
    printf("    Clocks Event Reasons\n");
    line(2, "Idle", c->event_reasons & 0x1 ? "Active" : "Not Active");
    line(2, "SW Power Cap", c->event_reasons & 0x4 ? "Active" : "Not Active");
    line(2, "HW Slowdown", c->event_reasons & 0x8 ? "Active" : "Not Active");
    line(2, "SW Thermal Slowdown", c->event_reasons & 0x20 ? "Active" : "Not Active");
    line(2, "HW Thermal Slowdown", c->event_reasons & 0x40 ? "Active" : "Not Active");
    line(2, "HW Power Brake Slowdown", c->event_reasons & 0x80 ? "Active" : "Not Active");
    printf("    FB Memory Usage\n");
    line_number(2, "Total", mib(c->memory.total), "MiB");
    line_number(2, "Reserved", mib(c->memory.reserved), "MiB");
    line_number(2, "Used", mib(c->memory.used), "MiB");
    line_number(2, "Free", mib(c->memory.free), "MiB");
    line(1, "Compute Mode", compute_modes[c->compute_mode % 4]);
    print_load(c);
    if (!c->process_count)
        line(1, "Processes", "None");
    else
        printf("    Processes\n");
    for (unsigned i = 0; i < c->process_count; i++) {
        line_number(2, "Process ID", c->processes[i].pid, "");
        line(3, "Type", c->processes[i].type == 'C' ? "C" : "G");
        line(3, "Name", c->processes[i].name);
        if (c->processes[i].bytes == ~0ULL)
            line(3, "Used GPU Memory", "N/A");
        else
            line_number(3, "Used GPU Memory", mib(c->processes[i].bytes), "MiB");
    }
    printf("\n");
}

void print_list(const struct card *c) { printf("GPU 0: %s (UUID: %s)\n", c->name, c->uuid); }

void print_version(const struct card *c)
{
    char cuda[16];
    cuda_text(c, cuda, sizeof cuda);
    printf("NVIDIA-SMI version  : %s\n", SMI_VERSION);
    printf("NVML version        : %.6s\n", SMI_VERSION);
    printf("DRIVER version      : %s\n", c->driver);
    printf("CUDA Version        : %s\n", cuda);
}
