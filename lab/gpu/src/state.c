/* Reads /run/lab/gpu.conf and the planted faults.
 *
 * Nothing here may need a newer glibc than the oldest container has: no sscanf or strtol with _GNU_SOURCE (they bind to
 * GLIBC_2.38), which is why build.py sets the feature macros it sets. */
#include "state.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *directory(void)
{
    const char *given = getenv("LAB_GPU_DIR"); /* for tests on a workstation; a container's environment is not ours to set */
    return given && *given ? given : "/run/lab";
}

static bool read_word(const char *folder, const char *name, char *word, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    char *got = fgets(word, (int)size, file);
    fclose(file);
    if (!got)
        return false;
    word[strcspn(word, " \t\r\n")] = '\0';
    return *word != '\0';
}

enum fault current_fault(void)
{
    static const struct { const char *word; enum fault fault; } known[] = {
        {"mismatch", MISMATCH}, {"nodevice", NO_DEVICE}, {"nocomm", NO_DRIVER},
        {"lost", LOST},         {"unknown", UNKNOWN},    {"hang", HANG},
    };
    char word[32], self[512];
    snprintf(self, sizeof self, "%s/self", directory());
    if (!read_word(self, "gpu-fault", word, sizeof word) && !read_word("/etc/lab", "gpu-fault", word, sizeof word) &&
        !read_word(directory(), "gpu-fault", word, sizeof word))
        return NONE;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(word, known[i].word))
            return known[i].fault;
    return NONE; /* hookfail and the like are the toolkit's business */
}

static void defaults(struct gpu_state *s)
{
    memset(s, 0, sizeof *s);
    strcpy(s->name, "NVIDIA RTX 4000 Ada Generation");
    strcpy(s->uuid, "GPU-7c9a3f5e-2b41-4d8e-9a06-51f2c4e8b7d3");
    strcpy(s->serial, "1652223014738");
    strcpy(s->vbios, "95.04.68.00.08");
    strcpy(s->bus_id, "00000000:01:00.0");
    strcpy(s->driver, LIBRARY_VERSION);
    strcpy(s->cuda, "13.1");
    strcpy(s->pstate, "8");
    strcpy(s->ecc, "off");
    s->total_mib = 20475;
    s->reserved_mib = 424;
    s->used_mib = 2;
    s->temperature = 38;
    s->fan = 30;
    s->power_mw = 11520;
    s->power_limit_mw = s->power_default_mw = 130000;
    s->sm_clock = 210;
    s->memory_clock = 405;
    s->event_reasons = 0x1; /* GPU idle */
    s->services = 1;
}

static void add_process(struct gpu_state *s, unsigned pid, unsigned long long bytes, bool graphics)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%u", pid);
    if (s->process_count == MAX_PROCESSES || access(path, F_OK))
        return; /* the driver lists living processes only */
    s->processes[s->process_count++] = (struct gpu_process){pid, bytes, graphics};
}

/* process = PID,MIB|na[,G] */
static void parse_process(struct gpu_state *s, char *value)
{
    char *memory = strchr(value, ',');
    if (!memory)
        return;
    *memory++ = '\0';
    bool graphics = strstr(memory, ",G") != NULL;
    unsigned long long bytes = isdigit((unsigned char)*memory) ? strtoull(memory, NULL, 10) * MIB : UNKNOWN_MEMORY;
    add_process(s, (unsigned)strtoul(value, NULL, 10), bytes, graphics);
}

#define TEXT(field) {#field, offsetof(struct gpu_state, field), sizeof(((struct gpu_state *)0)->field), true}
#define NUMBER(key, field) {key, offsetof(struct gpu_state, field), sizeof(((struct gpu_state *)0)->field), false}
static const struct { const char *key; size_t offset, size; bool text; } keys[] = {
    TEXT(name), TEXT(uuid), TEXT(serial), TEXT(vbios), TEXT(bus_id), TEXT(driver), TEXT(cuda), TEXT(pstate), TEXT(ecc),
    NUMBER("memory_total_mib", total_mib), NUMBER("memory_reserved_mib", reserved_mib),
    NUMBER("memory_used_mib", used_mib), NUMBER("temperature", temperature), NUMBER("fan", fan),
    NUMBER("power_mw", power_mw), NUMBER("power_limit_mw", power_limit_mw), NUMBER("utilization", utilization),
    NUMBER("memory_utilization", memory_utilization), NUMBER("sm_clock", sm_clock),
    NUMBER("memory_clock", memory_clock), NUMBER("persistence", persistence), NUMBER("compute_mode", compute_mode),
    NUMBER("remapped_correctable", remapped_correctable), NUMBER("remapped_uncorrectable", remapped_uncorrectable),
    NUMBER("remap_pending", remap_pending), NUMBER("remap_failure", remap_failure),
    NUMBER("ecc_corrected", ecc_corrected), NUMBER("ecc_uncorrected", ecc_uncorrected),
    NUMBER("event_reasons", event_reasons), NUMBER("services", services),
};

static void set(struct gpu_state *s, const char *key, char *value)
{
    if (!strcmp(key, "process")) {
        parse_process(s, value);
        return;
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(key, keys[i].key))
            continue;
        char *field = (char *)s + keys[i].offset;
        unsigned long long number = strtoull(value, NULL, 0);
        if (keys[i].text)
            snprintf(field, keys[i].size, "%s", value);
        else if (keys[i].size == sizeof number)
            memcpy(field, &number, sizeof number);
        else
            *(unsigned *)(void *)field = (unsigned)number;
    }
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    for (char *end = text + strlen(text); end > text && isspace((unsigned char)end[-1]);)
        *--end = '\0';
    return text;
}

static void read_file(struct gpu_state *s)
{
    char path[512], line[512];
    snprintf(path, sizeof path, "%s/gpu.conf", directory());
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        char *value = strchr(line, '=');
        if (*line == '#' || !value)
            continue;
        *value++ = '\0';
        set(s, trim(line), trim(value));
    }
    fclose(file);
}

/* A stand-in service that "uses" the card names a thread `vram N MiB`. A thread's name is the one thing of a process that
 * everybody on the host may read and that goes with it when it dies, whatever its user and container. */
static void add_thread(struct gpu_state *s, const char *proc, const char *pid, const char *thread)
{
    char path[1200], name[32] = "";
    snprintf(path, sizeof path, "%s/%s/task/%s/comm", proc, pid, thread);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t length = read(fd, name, sizeof name - 1);
    close(fd);
    if (length > 5 && !strncmp(name, "vram ", 5)) {
        unsigned long long mib = strtoull(name + 5, NULL, 10);
        s->used_mib += (unsigned)mib;
        add_process(s, (unsigned)strtoul(pid, NULL, 10), mib * MIB, false);
    }
}

static void read_services(struct gpu_state *s)
{
    /* In a container the hook shows the host's processes there: the card's memory is one for all. */
    char folder[512], stat[530];
    snprintf(folder, sizeof folder, "%s/proc", directory());
    snprintf(stat, sizeof stat, "%s/stat", folder);
    if (access(stat, F_OK))
        strcpy(folder, "/proc");
    DIR *proc = opendir(folder);
    if (!proc)
        return;
    for (struct dirent *process; (process = readdir(proc));) {
        if (!isdigit((unsigned char)*process->d_name))
            continue;
        char path[800];
        snprintf(path, sizeof path, "%s/%s/task", folder, process->d_name);
        DIR *tasks = opendir(path);
        if (!tasks)
            continue;
        for (struct dirent *task; (task = readdir(tasks));)
            if (isdigit((unsigned char)*task->d_name) && strcmp(task->d_name, process->d_name))
                add_thread(s, folder, process->d_name, task->d_name);
        closedir(tasks);
    }
    closedir(proc);
}

void read_state(struct gpu_state *s)
{
    char id[8];
    char self[512];
    defaults(s);
    read_file(s);
    if (s->services)
        read_services(s);
    snprintf(self, sizeof self, "%s/self", directory());
    if (read_word(self, "id", id, sizeof id))
        s->process_count = 0; /* in a container NVML shows no processes: their numbers are the host's */
    if (s->used_mib + s->reserved_mib > s->total_mib)
        s->used_mib = s->total_mib > s->reserved_mib ? s->total_mib - s->reserved_mib : 0;
}
