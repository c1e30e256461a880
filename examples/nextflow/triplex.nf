// Predicts one slide per task. A slide of several files needs them all in `slide`.
process TRIPLEX_PREDICT {
    tag "${meta.id}"
    cpus 8
    memory '16 GB'
    container 'triplex-deploy'

    input:
    tuple val(meta), path(slide)
    path bundle

    output:
    tuple val(meta), path('out/*.h5ad'), emit: prediction
    tuple val(meta), path('out/*.json'), emit: metadata
    tuple val(meta), path('out/*.html'), emit: report

    script:
    """
    triplex-deploy predict ${slide} --bundle ${bundle} --out out --threads ${task.cpus}
    """
}
