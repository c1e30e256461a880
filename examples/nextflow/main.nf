// nextflow run main.nf --slides 'slides/*.svs' --bundle bundle
include { TRIPLEX_PREDICT } from './triplex.nf'

workflow {
    slides = Channel.fromPath(params.slides).map { file -> [[id: file.baseName], file] }
    TRIPLEX_PREDICT(slides, file(params.bundle))
}
